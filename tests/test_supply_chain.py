"""What fovea is built on: bounds that are tested, licences that fit."""

import re
import tomllib
from runpy import run_path

from tests.house import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    """Package -> version of a constraints file."""
    lines = (ROOT / name).read_text().splitlines()
    pinned = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {package.lower().replace("_", "-"): version for package, _, version in pinned}


def test_the_lowest_constraints_are_the_lower_bounds() -> None:
    wanted = [
        *PROJECT["dependencies"],
        *(each for extra in ("report", "app") for each in PROJECT["optional-dependencies"][extra]),
    ]
    bounds = {}
    for requirement in wanted:
        match = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        assert match, f"{requirement} has no lower bound"
        bounds[match[1].lower()] = match[2]
    lowest = pins("constraints-lowest.txt")
    wrong = {
        name: (bound, lowest.get(name)) for name, bound in bounds.items() if not _is_same(bound, lowest.get(name, ""))
    }
    assert not wrong, f"constraints-lowest.txt and pyproject.toml differ: {wrong}"


def _is_same(bound: str, version: str) -> bool:
    """2.7 is 2.7.0."""
    return version == bound or version in (f"{bound}.0", f"{bound}.0.0")


def test_every_licence_fits_apache_2() -> None:
    script = run_path(str(ROOT / "scripts" / "licences.py"))
    packages = script["packages"]()
    assert len(packages) > 20, "the search is wrong"
    assert not [each for each in packages if not script["is_allowed"](each)]
    strange = packages[0]._replace(licence="MIT AND GPL-3.0-only")
    assert not script["is_allowed"](strange)
