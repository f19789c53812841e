"""Where an SAE may be: folders, links, a local cache of the Hub, references; and where it may not."""

import os
from pathlib import Path

import pytest
import torch

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.files import load_sae, read_sae
from tests.sae.formats.golden import load, path_of


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "sae"
    outside.mkdir()
    folder.mkdir()
    for path in path_of("sae_lens/v6-standard").iterdir():
        (outside / path.name).write_bytes(path.read_bytes())
        (folder / path.name).symlink_to(outside / path.name)
    assert load_sae(outside).sae.d_in == 8
    for read in (load_sae, read_sae):
        with pytest.raises(SAEError, match=r"cfg\.json is a link to .*outside.*; copy that file into the folder"):
            read(folder)
    tmp_path.joinpath("link").symlink_to(outside)
    assert load_sae(tmp_path / "link").sae.d_in == 8, "the folder itself may be a link: the user gave it"


def test_a_linked_folder_within_is_refused(tmp_path: Path) -> None:
    source = path_of("sae_lens/llama_scope")
    (tmp_path / "hyperparams.json").write_bytes((source / "hyperparams.json").read_bytes())
    (tmp_path / "checkpoints").symlink_to(source / "checkpoints")
    with pytest.raises(SAEError, match="is a link to"):
        load_sae(tmp_path)


@pytest.mark.parametrize("name", ["cfg.json", "params.npz", "ae.pt"])
def test_pipes_and_broken_links_do_not_hang(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SAEError, match="is not a regular file"):
        load_sae(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(SAEError, match="cannot be opened"):
        load_sae(tmp_path)


@pytest.mark.parametrize("path", ["../../x", "a/../../x", "a/*", "a\\b", "./x"])
def test_a_hub_path_that_climbs_or_matches_is_refused(path: str) -> None:
    with pytest.raises(UnknownReferenceError, match="is not a path inside a repository"):
        load_sae(f"hf:owner/repo/{path}")


def cached(folder: Path, case: str) -> Path:
    """A repository in a cache of the Hub, as huggingface_hub lays it out: links from a snapshot to blobs."""
    repository = folder / "models--owner--repo"
    snapshot = repository / "snapshots" / "0123abc"
    for made in (repository / "blobs", repository / "refs", snapshot):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    for number, path in enumerate(path_of(case).iterdir()):
        (repository / "blobs" / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return repository


def test_a_local_cache_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    repository = cached(tmp_path, "sae_lens/v6-topk")
    expected = load("sae_lens/v6-topk").sae.W_enc
    for place in (repository, repository / "snapshots" / "0123abc"):
        assert torch.equal(load_sae(place).sae.W_enc, expected)
    (repository / "snapshots" / "0123abc" / "cfg.json").unlink()
    (repository / "snapshots" / "0123abc" / "cfg.json").symlink_to("/etc/hostname")
    with pytest.raises(SAEError, match="is a link to"):
        load_sae(repository)


def test_a_cache_that_does_not_say_which_snapshot_is_refused(tmp_path: Path) -> None:
    repository = cached(tmp_path, "sae_lens/v6-topk")
    (repository / "snapshots" / "other").mkdir()
    assert load_sae(repository).sae.d_in == 8
    (repository / "refs" / "main").write_text("../../../..")
    with pytest.raises(UnknownReferenceError, match="2 snapshots and none of them is refs/main"):
        load_sae(repository)


def test_a_folder_of_several_names_them(tmp_path: Path) -> None:
    for name in ("layers.3", "layers.4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sae.safetensors").write_bytes(b"")
    with pytest.raises(UnknownReferenceError, match=r"several SAEs: layers\.3, layers\.4; give one"):
        load_sae(tmp_path)


def test_a_layout_may_be_named_and_is_held_to() -> None:
    source = path_of("sparsify/layers.3")
    assert load_sae(f"sparsify:{source}").metadata.fovea["layout"] == "sparsify"
    with pytest.raises(SAEError, match=r"holds no ae\.pt"):
        load_sae(f"dictionary_learning:{source}")
