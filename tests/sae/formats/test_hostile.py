"""Files that strangers wrote to do harm, or that broke on the way: a clear error, no crash, nothing run."""

import base64
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scripts.fuzzing.mutations import mutated
from scripts.fuzzing.saes import SAES, seeds

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.files import load_sae
from fovea.sae.formats.guard import MAX_JSON_BYTES, read_json
from fovea.sae.formats.layouts import LAYOUTS
from fovea.sae.formats.pickled import read_pickled
from fovea.sae.formats.tensors import MAX_HEADER_BYTES, read_npz, read_safetensors
from tests.house import ROOT
from tests.sae.formats.golden import READ, path_of

CORPUS = [json.loads(line) for line in (ROOT / "tests" / "golden" / "fuzz.jsonl").read_text().splitlines()]


def safetensors_file(path: Path, header: bytes, data: bytes = b"", *, claimed: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if claimed is None else claimed) + header + data)
    return path


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("claimed", [2**63, 2**40, MAX_HEADER_BYTES + 1, 100])
def test_a_header_that_is_longer_than_the_file_or_plausible_is_refused(claimed: int, tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", b"{}", claimed=claimed)
    with pytest.raises(SAEError, match=f"its header claims {claimed} bytes"):
        read_safetensors(path)


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = json.dumps({f"t{i}": entry() for i in range(20_000)}).encode()
    assert len(header) > MAX_HEADER_BYTES
    with pytest.raises(SAEError, match="are plausible"):
        read_safetensors(safetensors_file(tmp_path / "x.safetensors", header, bytes(8)))


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(), "b": entry()},
        {"a": entry(shape=[2**62, 2**62])},
        {"a": entry(offsets=[0, 2**63])},
        {"a": entry(offsets=[8, 0])},
        {"a": entry(shape=[-2])},
        {"a": entry(dtype="F99")},
        {"a": "x"},
        {"a": entry(shape="x")},
    ],
    ids=["overlapping", "huge shape", "huge offset", "backwards", "negative", "unknown type", "no entry", "no shape"],
)
def test_a_header_that_lies_is_damage(header: dict[str, object], tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", json.dumps(header).encode(), bytes(8))
    with pytest.raises(SAEError, match="is damaged"):
        read_safetensors(path)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_weights_of_another_type_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    save_file({"W_enc": torch.zeros(2, 2).to(kind)}, tmp_path / "x.safetensors")
    with pytest.raises(SAEError, match=r"'W_enc' is of type \w+, but weights are F64, F32, F16, BF16"):
        read_safetensors(tmp_path / "x.safetensors")


def npz(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def npy(shape: tuple[int, ...], data: bytes, *, kind: str = "<f4") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = npz(tmp_path / "params.npz", {"W_enc.npy": npy((2**20,), bytes(2**22))}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**14
    with pytest.raises(SAEError, match=r"unpacks \d+ bytes to 4194432, more than 16 times"):
        read_npz(path)


def test_an_array_that_claims_more_than_is_there_allocates_nothing(tmp_path: Path) -> None:
    path = npz(tmp_path / "params.npz", {"W_enc.npy": npy((2**40, 2**20), bytes(64))})
    with pytest.raises(SAEError, match="claims shape .* but has 64 bytes"):
        read_npz(path)


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SAEError, match="is pickled Python objects, which are never read"):
        load_sae(tmp_path)


@pytest.mark.parametrize("kind", ["<i8", "|S4", "<c8", "|b1"])
def test_arrays_of_another_type_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="but weights are floats"):
        read_npz(npz(tmp_path / "params.npz", {"W_enc.npy": npy((8,), bytes(64), kind=kind)}))


@pytest.mark.parametrize("header", [b"(" * 5000, b"{'descr': '<f4',\n", b"{'shape': __import__('os')}", b"\xff", b""])
def test_an_array_header_is_matched_and_never_evaluated(header: bytes, tmp_path: Path) -> None:
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with pytest.raises(SAEError, match="is not an array as numpy writes it"):
        read_npz(npz(tmp_path / "params.npz", {"W_enc.npy": data}))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_arrays_are_what_numpy_reads(order: Any, kind: str, tmp_path: Path) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4) / 3, dtype=kind, order=order)
    np.savez(tmp_path / "a.npz", a=array, b=array[0, 0], c=array[0, 0, 0])
    np.savez_compressed(tmp_path / "b.npz", a=array, b=array[0, 0], c=array[0, 0, 0])
    for name in ("a.npz", "b.npz"):
        ours = read_npz(tmp_path / name)
        with np.load(tmp_path / name) as theirs:
            assert {key: value.tolist() for key, value in ours.items()} == {
                key: theirs[key].astype(np.float32).tolist() for key in theirs.files
            }


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="which is no array"):
        read_npz(npz(tmp_path / "params.npz", {"../../evil": b"x"}))


class Harm:
    """What would run if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm-was-done",)


@pytest.mark.parametrize(
    "value", [Harm(), {"encoder.weight": Harm()}, {"encoder.weight": torch.zeros(2, 2), "x": [Harm()]}]
)
def test_a_pickle_that_would_run_something_is_refused_by_the_name_of_it(
    value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(value, tmp_path / "ae.pt")
    with pytest.raises(SAEError, match=r"is a pickle that would run '\w+\.mkdir' when loaded; it was not"):
        load_sae(tmp_path)
    assert not (tmp_path / "harm-was-done").exists()


def test_a_bare_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ae.pt").write_bytes(pickle.dumps({"encoder.weight": 1}))
    with pytest.raises(SAEError, match="older pickles are not read: convert it to safetensors where you trust it"):
        load_sae(tmp_path)


@pytest.mark.filterwarnings("error")
def test_escapes_in_the_names_of_a_pickle_warn_nobody(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt")

    def escaped(name: str, data: bytes) -> bytes:
        return data.replace(b"torch._utils", b"torch.\\lutils") if name.endswith("data.pkl") else data

    repacked(tmp_path / "x.pt", escaped)
    with pytest.raises(SAEError, match="would run"):
        read_pickled(tmp_path / "x.pt")


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ae.pt")
    with pytest.raises(SAEError, match=r"would run 'torch\.nn\.modules\.linear\.Linear' when loaded"):
        load_sae(tmp_path)


def repacked(path: Path, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> None:
    """A .pt file with its entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    npz(path, {name: change(name, data) for name, data in entries.items()}, how)


def test_state_dicts_are_what_torch_loads(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    state = {
        "plain": base.view(4, 6),
        "transposed": base.view(4, 6).T,
        "part": base[3:9],
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "count": torch.tensor(5, dtype=torch.int32),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "word": "TopK",
        "nested": {"k": 32, "fraction": 0.5, "yes": True, "none": None},
    }
    torch.save(state, tmp_path / "x.pt")
    ours, theirs = read_pickled(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype
            assert torch.equal(ours[name], value.detach()), name
        else:
            assert ours[name] == value


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (lambda data: data.replace(b"K\x04K\x06\x86", b"K\x04M\xff\xff\x86"), "claims more than its 24 numbers"),
        (lambda data: data.replace(b"K\x06K\x01\x86", b"M\xff\xffK\x01\x86"), "claims more than its 24 numbers"),
        (lambda data: data.replace(b"K\x06K\x01\x86", b"K\x00K\x00\x86"), None),
        (lambda data: data.replace(b"K\x18t", b"M\xff\xfft"), "a storage claims 65535 numbers of 4 bytes, but has 96"),
        (lambda data: data.replace(b"FloatStorage", b"DoubleStorage"), "claims 24 numbers of 8 bytes"),
        (lambda data: data.replace(b"K\x04K\x06\x86", b"J\xff\xff\xff\xffK\x06\x86"), "a program that torch does not"),
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda _: b"\x80\x02" + b"(" * 1000 + b".", "holds a _?Mark|is damaged|not a state dict"),
        (lambda _: b"\x80\x02]q\x00h\x00a.", "holds a list, not a state dict"),
        (lambda _: b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "is a dict, which a state dict"),
        (lambda data: data + bytes(2**21), "at most 1048576 are plausible"),
    ],
    ids=[
        "shape",
        "stride",
        "all one number",
        "storage",
        "type",
        "negative",
        "cut",
        "marks",
        "cycle",
        "in itself",
        "long",
    ],
)
def test_a_program_that_lies_about_its_tensors_is_refused(
    program: Callable[[bytes], bytes], message: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(24.0).view(4, 6)}, path)
    repacked(path, lambda name, data: program(data) if name.endswith("data.pkl") else data)
    if message is None:
        assert read_pickled(path)["a"].tolist() == [[0.0] * 6] * 4
    else:
        with pytest.raises(SAEError, match=message):
            read_pickled(path)


def test_many_tensors_over_one_storage_are_refused(tmp_path: Path) -> None:
    one = torch.zeros(1000)
    torch.save({f"t{i}": one[:] for i in range(2)}, tmp_path / "few.pt")
    assert len(read_pickled(tmp_path / "few.pt")) == 2
    torch.save({f"t{i}": one[:] for i in range(100)}, tmp_path / "many.pt")
    with pytest.raises(SAEError, match="together are more than twice the file"):
        read_pickled(tmp_path / "many.pt")


def test_a_packed_state_dict_is_taken_for_a_bomb(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10_000)}, tmp_path / "x.pt")
    repacked(tmp_path / "x.pt", lambda _, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(SAEError, match="weights do not shrink like that"):
        read_pickled(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper than 32"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested deeper than 32"),
        ('{"a": "' + "x" * MAX_JSON_BYTES + '"}', "but a description has at most 4194304"),
        ('{"a": ' + "9" * 5000 + "}", "not valid json"),
        ("\ufeff{}", "not valid json"),
        ("{} {}", "not valid json"),
        ("3", "holds a int, not an object"),
    ],
)
def test_json_bombs_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(SAEError, match=message):
        read_json(tmp_path / "cfg.json")


def test_what_a_description_says_can_be_printed_and_written_again(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text(
        '{"a": 1e999, "b": NaN, "c": "\\u001b[2J\\ud800", "\\u0007": ["\\u009b", "\u00e9"]}'
    )
    said = read_json(tmp_path / "cfg.json")
    assert said == {"a": "inf", "b": "nan", "c": r"\x1b[2J\ud800", r"\x07": [r"\x9b", "\u00e9"]}
    json.dumps(said, allow_nan=False).encode()


@pytest.mark.parametrize("case", [case for case in READ if "v6-" in case or case.startswith("sparsify/layers")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(case: str, value: float, tmp_path: Path) -> None:
    source = path_of(case)
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = next(tmp_path.glob("sae*.safetensors"))
    tensors = load_file(weights)
    tensors["W_dec"][0, 0] = value
    save_file(tensors, weights)
    with pytest.raises(SAEError, match="'W_dec' holds 1 values that are NaN or infinite"):
        load_sae(tmp_path)


def outcome(folder: Path, files: dict[str, Any], seed: str) -> str:
    """What reading these files comes to; anything but a clear error goes up."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
    try:
        SAES.read(folder, seed)
        return "read"
    except (SAEError, UnknownReferenceError) as error:
        return type(error).__name__


@pytest.mark.parametrize("line", range(len(CORPUS)))
def test_the_corpus_of_the_fuzzer_is_refused_or_read_as_before(line: int, tmp_path: Path) -> None:
    known = CORPUS[line]
    files = {name: zlib.decompress(base64.b64decode(data)) for name, data in known["files"].items()}
    assert outcome(tmp_path / "sae", files, known["from"]) == known["outcome"].partition(":")[0]


SEEDS = seeds()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(SEEDS)), rng=st.randoms(use_true_random=False))
def test_damaged_files_are_refused_or_read(name: str, rng: Any, tmp_path: Path) -> None:
    changed = mutated(SEEDS[name], [SEEDS[each] for each in sorted(SEEDS)], rng, str(tmp_path))
    outcome(tmp_path / "sae", {**SEEDS[name], **changed}, name)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=st.sampled_from(sorted(LAYOUTS)), data=st.data())
def test_noise_in_place_of_files_is_refused(layout: str, data: st.DataObject, tmp_path: Path) -> None:
    noise = st.binary(max_size=200) | st.just(b"{}") | st.just(npz_bytes())
    names = ("cfg.json", "config.json", "sae_weights.safetensors", "sae.safetensors", "params.npz", "ae.pt")
    files = {name: data.draw(noise) for name in names}
    folder = tmp_path / "sae"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises((SAEError, UnknownReferenceError)):
        load_sae(f"{layout}:{folder}")


def npz_bytes() -> bytes:
    packed = io.BytesIO()
    np.savez(packed, W_enc=np.zeros((2, 3), dtype=np.float32))
    return packed.getvalue()
