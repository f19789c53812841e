"""What the folder of examples says of itself: versions, names, and what a comparison lets pass."""

import ast
import importlib.util
import re
import runpy
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from tests.house import ROOT

FOLDER = ROOT / "examples"
SHARED = {"handover", "hooked", "run_all"}
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)
RUN_ALL = runpy.run_path(str(FOLDER / "run_all.py"))


@pytest.fixture(scope="module")
def handover() -> ModuleType:
    """examples/handover.py."""
    spec = importlib.util.spec_from_file_location("handover", FOLDER / "handover.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_and_has_its_row() -> None:
    rows = re.findall(r"^\| \[(\w+)\.py\]", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(RUN_ALL["EXAMPLES"]) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_names_the_versions_that_it_is_run_with(name: str) -> None:
    doc = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert doc is not None
    assert f"python examples/{name}.py RUN JOB" in doc
    named = re.findall(r"([a-z][\w-]+) (\d+\.\d+\.\d+)", doc.partition("Tested with")[2])
    environment = RUN_ALL["EXAMPLES"][name]
    pins = (FOLDER / f"constraints-{environment}.txt").read_text().lower().replace("_", "-").splitlines()
    alone = RUN_ALL["ENVIRONMENTS"][environment].alone
    assert named
    missing = [f"{package}=={version}" for package, version in named if f"{package}=={version}" not in [*pins, *alone]]
    assert not missing, f"constraints-{environment}.txt has others"


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_example_is_called_like_a_package_that_it_would_hide(name: str) -> None:
    """Python puts a script's folder first on its path."""
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert name not in imported


@pytest.mark.parametrize("environment", sorted(RUN_ALL["ENVIRONMENTS"]))
def test_what_an_environment_installs_is_pinned(environment: str) -> None:
    pins = (FOLDER / f"constraints-{environment}.txt").read_text().lower().replace("_", "-").splitlines()
    assert RUN_ALL["TORCH"] in pins
    packages = RUN_ALL["ENVIRONMENTS"][environment].packages
    assert not [name for name in packages if not any(pin.startswith(name.partition("==")[0] + "==") for pin in pins)]


Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.mark.parametrize(
    "change",
    [
        lambda latents: latents.masked_fill(latents == latents.max(), 0.0),
        lambda latents: latents + 1e-3 * (latents > 0),
    ],
    ids=["flipped", "other"],
)
def test_a_comparison_ends_the_example_where_the_latents_differ(
    handover: ModuleType, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).relu()
    coded = handover.Coded(latents, torch.ones(5, 3))
    handover.compare("peer", coded, coded)
    assert "flipped latents                 0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="peer does not compute the same"):
        handover.compare("peer", handover.Coded(change(latents), torch.ones(5, 3)), coded)


def test_a_comparison_ends_the_example_where_x_hat_differs(handover: ModuleType) -> None:
    latents = torch.ones(2, 3)
    with pytest.raises(SystemExit, match="peer does not compute the same"):
        handover.compare("peer", handover.Coded(latents, torch.full((2, 3), 1.001)), handover.Coded(latents, latents))
