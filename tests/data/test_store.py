"""The memo of chunks: exact, bounded, checked, and never wrong."""

import logging
import resource
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fovea.data.store import ChunkStore
from fovea.errors import RunError


def _tensors(seed: int = 0, n: int = 50) -> dict[str, Tensor]:
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    return {"x": x, "documents": torch.arange(n, dtype=torch.int32), "positions": torch.arange(n, dtype=torch.int32)}


def _store(folder: Path, *, key: str = "k", dtype=torch.float32, max_bytes: int | None = None) -> ChunkStore:
    return ChunkStore(folder, key=key, dtype=dtype, max_bytes=max_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_comes_back_exactly_also_after_reopening(tmp_path: Path, dtype):
    _store(tmp_path, dtype=dtype).put(3, _tensors())
    store = _store(tmp_path, dtype=dtype)
    found = store.get(3)
    assert found is not None
    assert found["x"].dtype == dtype
    for name, tensor in _tensors().items():
        assert torch.equal(found[name].float(), tensor.float())
    assert store.get(0) is None
    assert store.n_bytes == sum(path.stat().st_size for path in tmp_path.glob("chunk-*"))


def test_half_the_bytes_are_used_where_half_are_enough(tmp_path: Path):
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        store = _store(tmp_path / str(dtype), dtype=dtype)
        store.put(0, _tensors(n=5000))
        sizes.append(store.n_bytes)
    assert sizes[1] < 0.65 * sizes[0]
    with pytest.raises(AssertionError, match="not exact"):
        _store(tmp_path / "c", dtype=torch.bfloat16).put(0, {"x": torch.full((2, 2), 1.0001)})


@pytest.mark.parametrize("place", [0, 200, 900, -1])
def test_any_flipped_byte_is_noticed_logged_and_removed(tmp_path: Path, place: int, caplog):
    store = _store(tmp_path)
    store.put(0, _tensors())
    path = tmp_path / "chunk-000000.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "fovea"):
        assert store.get(0) is None
    assert "is damaged" in caplog.text
    assert not path.exists()
    store.put(0, _tensors())
    assert store.get(0) is not None


def test_another_key_or_dtype_is_refused_and_so_is_a_folder_of_something_else(tmp_path: Path):
    _store(tmp_path / "a").put(0, _tensors())
    with pytest.raises(RunError, match="another corpus, lm, hook point, filter or dtype"):
        _store(tmp_path / "a", key="other")
    with pytest.raises(RunError, match="bfloat16"):
        _store(tmp_path / "a", dtype=torch.bfloat16)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="holds something else"):
        _store(tmp_path / "b")


@pytest.mark.parametrize(
    ("harm", "said"), [("torn", "it is damaged"), ("gone", "its manifest is gone"), ("link", "outside")]
)
def test_a_damaged_manifest_empties_a_runs_own_folder_and_no_other(tmp_path: Path, harm: str, said: str, caplog):
    folder, manifest = tmp_path / "a", tmp_path / "a" / "manifest.json"
    _store(folder).put(0, _tensors())
    if harm == "torn":
        manifest.write_text("{")
    else:
        manifest.rename(tmp_path / "elsewhere")
    if harm == "link":
        manifest.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"delete .*a: it will be made again|holds something else"):
        ChunkStore(folder, key="k", dtype=torch.float32, room=lambda _: nullcontext(True))
    with caplog.at_level(logging.WARNING, "fovea"):
        assert _store(folder).n_kept == 0
    assert said in caplog.text
    assert manifest.is_file()
    assert not manifest.is_symlink()


def test_a_chunk_of_another_store_is_not_believed(tmp_path: Path):
    _store(tmp_path / "a", key="a").put(0, _tensors())
    store = _store(tmp_path / "b", key="b")
    (tmp_path / "a" / "chunk-000000.safetensors").rename(tmp_path / "b" / "chunk-000000.safetensors")
    assert store.get(0) is None


def test_the_size_is_bounded_and_the_limit_is_logged_once(tmp_path: Path, caplog):
    store = _store(tmp_path, max_bytes=8000)
    with caplog.at_level(logging.WARNING, "fovea"):
        for index in range(6):
            store.put(index, _tensors(index))
    kept = sorted(path.name for path in tmp_path.glob("chunk-*"))
    assert 1 <= len(kept) < 6
    assert store.n_bytes <= 8000
    assert caplog.text.count("limit of 8,000 bytes") == 1
    assert store.get(0) is not None


def test_a_full_disk_ends_keeping_and_leaves_nothing_half_written(tmp_path: Path, caplog):
    store = _store(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with caplog.at_level(logging.WARNING, "fovea"):
            store.put(0, _tensors())
            store.put(1, _tensors())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caplog.text.count("no more activations are kept") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert store.get(0) is None


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path):
    _store(tmp_path).put(0, _tensors())
    (tmp_path / ".chunk-000001.safetensors.77.partial").write_bytes(b"half")
    assert _store(tmp_path).get(0) is not None
    assert not list(tmp_path.glob(".*"))
