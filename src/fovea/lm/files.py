"""Files of a language model: found, checked and read, without ever running code or pickles that came with them.

    "bundled:smollm2-135m-instruct" --+
    folder                            --+--> Source --> config checks --> safetensors weights --> eval mode, no gradient
    Hub id                            --+

A file that is missing, a weight that is missing and an architecture that is unknown are errors that say what to do.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from fovea.errors import ConfigError, FoveaError, ModelError, UnknownReferenceError
from fovea.foreign import Refusal, expanded, is_there, read_object, regular
from fovea.lm.fingerprint import AGAIN, weight_files

DtypeName = Literal["auto", "float32", "bfloat16"]

BUNDLED = "smollm2-135m-instruct"
"The one model that comes with fovea."

_HUB_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
MAX_SIZE, MAX_LAYERS = 2**31, 4096
"Largest numbers in a config.json, and of what counts layers."
SLACK = 2**24
"Numbers that a model may compute for itself, such as masks and positions."
_PATH = Refusal(UnknownReferenceError, "give an existing folder or a Hub id")
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja")
"Endings of the files that transformers reads from a folder."
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


class Source(NamedTuple):
    """Where a model's files are."""

    path: str
    "What transformers is asked for: a folder, or a Hub id."
    folder: Path
    "Local folder with config.json and, once loaded, the weights."
    revision: str | None
    "Commit on the Hub; None for a folder."


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Compute dtype of the lm.

    "auto" is bfloat16 where it is faster: on CUDA, and on CPUs with avx512_bf16 or amx_bf16, where the forward of a
    135M model took 0.53 of the time of float32 and changed its loss by 0.002 nats. Other CPUs emulate bfloat16, which
    is slower than float32. float16 is refused: CPUs have no fast float16, and massive activations overflow it.

    Raises:
        ConfigError: the name is unknown, or float16.
    """
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    if name == "float16":
        raise ConfigError(
            "lm.dtype = 'float16' is not offered: it is hundreds of times slower than float32 on a CPU and overflows "
            "on massive activations; use 'auto', 'float32' or 'bfloat16'"
        )
    if name != "auto":
        raise ConfigError(f"lm.dtype = {name!r} is unknown; allowed: 'auto', 'float32', 'bfloat16'")
    fast = device.type == "cuda" or (device.type == "cpu" and bool(_CPU_FLAGS & cpu_flags()))
    return torch.bfloat16 if fast else torch.float32


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction set extensions of this CPU; empty where the system does not list them (other than Linux)."""
    if not path.is_file():
        return frozenset()
    flags = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()


def choose_device(name: str, *, setting: str = "lm.device") -> torch.device:
    """The device called `name`.

    Args:
        setting: What named it, for the message.

    Raises:
        ConfigError: torch does not know it, it is not there, or it holds no numbers.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # "meta" fails here
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        others = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count())) or "none here"
        raise ConfigError(
            f"{setting} = {name!r} cannot be used ({reason}); use 'cpu' or another that torch sees ({others})"
        ) from None
    return device


def locate(reference: str) -> Source:
    """Where the files of `reference` are; of a Hub model only the config and the list of weights are fetched here.

    Raises:
        UnknownReferenceError: nothing is found under that name.
        ModelError: only pickled weights are there.
    """
    if reference.startswith("bundled:"):
        folder = _bundled_folder(reference)
    elif expanded(reference, _PATH).is_dir():
        folder = expanded(reference, _PATH)
    else:
        return _on_hub(reference)
    if not is_there(folder / "config.json", folder, AGAIN):
        raise UnknownReferenceError(
            f"lm {reference!r} is a folder without config.json; give a folder written by save_pretrained"
        )
    for path in folder.iterdir():
        if path.name.endswith(_READ) and (path.is_symlink() or not path.is_dir()):
            regular(path, folder, AGAIN)
    if not weight_files(folder):
        raise _no_safetensors(reference, sorted(path.name for path in folder.iterdir()))
    return Source(str(folder), folder, None)


def load_model(source: Source, reference: str, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The causal lm of `source`: evaluation mode, no gradients, every weight read from its files.

    Raises:
        ModelError: not a causal lm that transformers knows, quantised, or its weights are incomplete or damaged.
    """
    config = _check_config(source, reference)
    try:
        _check_size(source, config, reference)
        with _no_progress_bar():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.path,
                revision=source.revision or "main",
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except FoveaError:
        raise
    except Exception as error:  # settings that do not fit each other raise whatever the architecture's code raises
        what = f"{type(error).__name__}: {str(error)[:500]}"
        raise ModelError(f"the weights of lm {reference!r} cannot be read ({what}); fetch the model again") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"lm {reference!r} lacks {len(missing)} weights, among them {missing[0]!r}; they would be random. "
            "Fetch the complete model"
        )
    torch.nn.Module.to(model, device)
    return model.eval().requires_grad_(False)


def load_tokenizer(source: Source, reference: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `source`.

    Raises:
        UnknownReferenceError: it has none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, revision=source.revision or "main", trust_remote_code=False, use_fast=True
        )
        tokenizer("a")  # some damage shows only in use
        if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2:
            raise ValueError("it has no vocabulary")  # as some versions make up where there are no files
        return tokenizer
    except Exception as error:  # the tokenizers library raises a bare Exception for what it does not understand
        raise UnknownReferenceError(
            f"lm {reference!r} has no tokenizer that transformers can read ({type(error).__name__}: "
            f"{str(error)[:500]}); save the tokenizer in the model's folder with save_pretrained"
        ) from error


def _bundled_folder(reference: str) -> Path:
    if reference != f"bundled:{BUNDLED}":
        raise UnknownReferenceError(f"lm {reference!r} is not bundled; the bundled lm is 'bundled:{BUNDLED}'")
    from fovea.bundled.model import model_folder

    return model_folder()


def _on_hub(reference: str) -> Source:
    if not _HUB_ID.fullmatch(reference):
        raise UnknownReferenceError(
            f"lm {reference!r} is neither an existing folder nor a Hub id (OWNER/NAME) nor 'bundled:{BUNDLED}'; "
            "correct the path or the name"
        )
    try:
        config = cached_file(reference, "config.json")
        weights = [_optional_file(reference, name) for name in _WEIGHTS]
    except (OSError, ValueError) as error:
        raise UnknownReferenceError(
            f"lm {reference!r}: there is no such folder here, and the Hub did not give it ({_first_line(error)}); "
            f"check the name and the network, or give a folder or 'bundled:{BUNDLED}', which need none"
        ) from error
    assert config is not None
    if not any(weights):
        raise _no_safetensors(f"{reference} (as the Hub, or offline its cache, has it)", [])
    folder = Path(config).parent
    return Source(reference, folder, folder.name)


def _optional_file(reference: str, name: str) -> str | None:
    return cached_file(reference, name, _raise_exceptions_for_missing_entries=False)


def _check_config(source: Source, reference: str) -> dict[str, Any]:
    config = read_object(source.folder / "config.json", source.folder, AGAIN)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        code = " without running code that comes with it, which fovea never does" if "auto_map" in config else ""
        raise ModelError(
            f"lm {reference!r} has model_type {kind!r}, which is not a causal lm that transformers knows{code}; "
            "use another model or a newer transformers"
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"lm {reference!r} has quantised weights, whose activations are not the model's own; "
            "use the unquantised model it was made from"
        )
    for name, value in config.items():
        most = MAX_LAYERS if "layer" in name else MAX_SIZE
        if isinstance(value, int) and abs(value) > most:
            raise ModelError(f"lm {reference!r} has {name} = {value:.3e}, at most {most} is plausible; {AGAIN.again}")
    return config


def _check_size(source: Source, config: dict[str, Any], reference: str) -> None:
    """Nothing, if the model that config.json describes is not larger than its files: what they lack would be made."""
    described = AutoConfig.for_model(**{"model_type": config["model_type"], **config})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    n_described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    n_bytes = sum(path.stat().st_size for path in weight_files(source.folder))
    if n_bytes and n_described > 2 * n_bytes + SLACK:
        raise ModelError(
            f"config.json of lm {reference!r} describes {n_described:,} numbers, but its weights have {n_bytes:,} "
            "bytes: the two belong to different models; fetch the model again"
        )


def _no_safetensors(reference: str, files: list[str]) -> ModelError:
    pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    found = f" (found {', '.join(pickles)}, which can run code when opened)" if pickles else ""
    return ModelError(
        f"lm {reference!r} has no safetensors weights{found}; convert them with "
        "AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER) where you trust them, then give that folder"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def _no_progress_bar() -> Generator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
