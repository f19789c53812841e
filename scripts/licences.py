"""Lists what fovea installs, with version and licence from the packages' own metadata. `make licences` prints it.

extras -> requirements, followed as far as they lead -> name, version, licence
"""

import importlib.metadata
import re
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("report", "app")
"What users install; tools of development are not passed on."

ALLOWED = r"\b(Apache|MIT|BSD|0BSD|BSL-1\.0|ISC|PSF-2\.0|CNRI-Python|MPL[- ]2\.0|CC0-1\.0|Zlib)\b"
"Licences that code under Apache-2.0 may depend on. MPL-2.0 covers its own files alone."

OF_TORCH = ("nvidia-", "cuda-")
"""CUDA's libraries, which the package index's torch brings along on Linux: proprietary, free to use and to pass on
unchanged. A torch for the CPU has none, and nothing of fovea needs them without a GPU."""


class Package(NamedTuple):
    """An installed package."""

    name: str
    version: str
    licence: str
    "As its metadata say: expression, classifiers or the first line of the field; empty where they say nothing."


def packages(root: str = "fovea-sae") -> list[Package]:
    """Everything that `root` with its extras needs on this machine and that is installed, without `root` itself."""
    left, found = [(root, EXTRAS)], {}
    while left:
        name, extras = left.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on other systems, or for an extra that was not installed
        if name in found:
            continue
        found[name] = Package(name, distribution.version, licence(distribution))
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                left.append((canonicalize_name(needed.name), tuple(needed.extras)))
    del found[root]
    return sorted(found.values())


def licence(distribution: importlib.metadata.Distribution) -> str:
    """What the metadata of a package say."""
    fields = distribution.metadata
    classifiers = [each.rpartition(" :: ")[2] for each in fields.get_all("Classifier", []) if "License" in each]
    first = (fields.get("License") or "").strip().partition("\n")[0]
    return fields.get("License-Expression") or " AND ".join(classifiers) or first


def is_allowed(package: Package) -> bool:
    """Whether each licence that its metadata name fits Apache-2.0, or it is of CUDA."""
    return package.name.startswith(OF_TORCH) or all(
        re.search(ALLOWED, part) for part in re.split(r"\bAND\b|\bOR\b", package.licence)
    )


if __name__ == "__main__":
    for package in packages():
        print(
            f"{package.name:24} {package.version:14} {package.licence}{'' if is_allowed(package) else '   LOOK AT IT'}"
        )
