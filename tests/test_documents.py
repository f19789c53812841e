"""The house rules of the repository: documents that tell the truth, flags that do not drift, nothing private."""

import json
import re
import tomllib
from pathlib import Path
from runpy import run_path

import pytest

from tests.api import interface
from tests.flags import command_flags
from tests.house import ROOT, SRC, documents, fences, kinds, tracked_files, tracked_texts

MAX_FILE_BYTES = 26 * 10**6
GOLDEN_FLAGS = ROOT / "tests" / "golden" / "flags.json"
GOLDEN_API = ROOT / "tests" / "golden" / "api.json"

PRIVATE = {
    "a machine path": r"(?<![\w.])/(?:work|root|home)/",
    "a registry's host": r"pypi\.(?:org|io)\b|pythonhosted\.|npmjs\.(?:org|com)|deb\.debian\.|download\.pytorch\.",
    "a hub token": r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}",
    "a key": r"\bsk-[A-Za-z0-9-]{30,}|\bAKIA[0-9A-Z]{16}\b|\bxox[bap]-\w{10,}|-----BEGIN [A-Z ]*PRIVATE KEY",
}


def test_the_flags_are_the_frozen_ones() -> None:
    frozen = json.loads(GOLDEN_FLAGS.read_text())
    assert command_flags() == frozen, (
        "the command line changed; if that is meant, run `make flags` and say it in CHANGELOG.md"
    )


def test_the_public_interface_is_the_frozen_one() -> None:
    assert interface() == json.loads(GOLDEN_API.read_text()), (
        "the interface of docs/stability.md changed; if that is meant, run `make flags` and say it in CHANGELOG.md"
    )


def test_every_verb_is_documented_and_every_documented_verb_exists() -> None:
    verbs = {name.split()[0] for name in command_flags() if name}
    named = {verb for text in documents().values() for verb in _verbs_named(text)}
    assert not verbs - named, f"no document shows them: {verbs - named}"
    assert not named - verbs, f"documents show verbs that do not exist: {named - verbs}"


def test_every_documented_flag_belongs_to_its_verb() -> None:
    known = command_flags()
    wrong = []
    for path, text in documents().items():
        for command in _commands(text):
            first, second = [*command.split(), ""][1:3]
            verb = f"{first} {second}" if f"{first} {second}" in known else first
            named = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", command.partition("#")[0]))
            unknown = named - set(known.get(verb, [])) - {"--help"}
            wrong += [f"{path}: `fovea {verb}` has no {flag}" for flag in sorted(unknown)]
    assert not wrong, "\n".join(wrong)


def _commands(text: str) -> list[str]:
    """What documents tell a reader to type that begins with fovea: lines of shell fences, and inline code."""
    shell = [
        line for language in ("", "sh", "console") for fence in fences(text, language) for line in fence.splitlines()
    ]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = (line.removeprefix("$ ") for line in shell + inline)
    return [line for line in lines if re.match(r"fovea [a-z]+\b", line)]


def _verbs_named(text: str) -> set[str]:
    return {command.split()[1] for command in _commands(text)}


def test_readme_tree_names_every_folder() -> None:
    inside = {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"}
    top = {path.relative_to(ROOT).parts[0] for path in tracked_files() if len(path.relative_to(ROOT).parts) > 1} - {
        "src"
    }
    tree = "\n".join(fences((ROOT / "README.md").read_text(), "text"))
    missing = {name for name in inside | top if not re.search(rf"^ *{re.escape(name)}/ +\S", tree, flags=re.MULTILINE)}
    assert not missing, f"give each its line in the README's tree: {missing}"


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_every_kind_has_a_mention_in_the_documents(kind: str) -> None:
    assert any(f"`{kind}`" in text for text in documents().values()), f"write `{kind}` into docs/ ({kinds()[kind]})"


def test_every_method_has_its_page() -> None:
    methods = {kind for kind, module in kinds().items() if module.startswith("fovea.methods")}
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert methods, "no method found in src/fovea/methods"
    assert methods == pages


@pytest.mark.parametrize("path", sorted(documents(), key=str), ids=str)
def test_python_in_documents_compiles(path: Path) -> None:
    for code in fences(documents()[path], "python"):
        assert compile(code, str(path), "exec").co_code


def test_the_texts_of_the_tutorial_are_made_and_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    script = next(code for code in fences(page, "python") if code.startswith('"""Writes texts/'))
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "texts.py", "exec"), {"__name__": "__main__"})
    texts = list((tmp_path / "texts").glob("*.txt"))
    assert len(texts) > 100
    assert sum(path.stat().st_size for path in texts) > 500_000


@pytest.mark.parametrize("path", sorted(documents(), key=str), ids=str)
def test_experiments_in_documents_are_accepted(path: Path) -> None:
    from fovea.experiment.config import resolve  # imported here: the other tests of documents need no torch

    for code in fences(documents()[path], "toml"):
        table = tomllib.loads(code)
        if "domain" in table:
            assert resolve(table, where=str(path)).domain


@pytest.mark.parametrize("path", sorted(documents(), key=str), ids=str)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", documents()[path])
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    broken = [target for target in local if not (ROOT / path.parent / target).exists()]
    assert not broken, f"{path}: {broken}"


def test_no_document_has_a_blank_left_to_fill_in() -> None:
    blank = {str(path) for path, text in documents().items() if re.search(r"@@|\bT[O]DO\b|\bTBD\b", text)}
    assert not blank


def test_the_metrics_page_says_what_the_definitions_say() -> None:
    page = run_path(str(ROOT / "scripts" / "write_metrics_page.py"))["page"]()
    assert (ROOT / "docs" / "metrics.md").read_text() == page, "run `make docs`"


def test_the_scale_page_says_what_the_cost_model_says() -> None:
    page = run_path(str(ROOT / "scripts" / "write_scale_page.py"))["page"]()
    assert (ROOT / "docs" / "scale.md").read_text() == page, "run `make docs`"


@pytest.mark.parametrize("name", ["cli", "experiment"])
def test_the_reference_pages_say_what_the_code_says(name: str) -> None:
    page = run_path(str(ROOT / "scripts" / "write_reference_pages.py"))[f"{name}_page"]()
    assert (ROOT / "docs" / "reference" / f"{name}.md").read_text() == page, "run `make docs`"


def test_every_bundled_corpus_is_in_the_readme_with_its_licence() -> None:
    readme = (ROOT / "README.md").read_text()
    manifests = [json.loads(path.read_text()) for path in sorted((SRC / "bundled" / "corpora").glob("*.json"))]
    missing = [each["name"] for each in manifests if f"| {each['title']} | {each['licence']} |" not in readme]
    assert manifests, "no bundled corpus found"
    assert not missing, f"the README's table of licences has other words for {missing}"


def test_changelog_is_open() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_licence_is_there_in_full() -> None:
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()


def test_no_tracked_file_is_too_large() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    assert not {name: size for name, size in large.items() if size > MAX_FILE_BYTES}


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_private_is_tracked(what: str) -> None:
    found = [
        f"{path} line {text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path, text in tracked_texts().items()
        for match in re.finditer(PRIVATE[what], text)
    ]
    assert not found, f"{what} in:\n" + "\n".join(found)
