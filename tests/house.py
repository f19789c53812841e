"""What the house tests look at: the repository's files, modules, imports, functions and documents, read and not run."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "fovea"

LAYERS = (
    ("errors", "foreign", "config", "atomic", "tensorfile", "ranks", "together", "profile", "triton_source"),
    ("bundled",),
    ("lm",),
    ("data",),
    ("sae",),
    ("methods",),
    ("train",),
    ("eval",),
    ("features",),
    ("rating",),
    ("report",),
    ("experiment",),
    ("bench",),
    ("app",),
    ("api", "saelens"),
    ("cli", "guarded", "handover"),
    ("__main__",),
)
"Left to right: a module imports from its own layer and from layers before it (STYLE B2)."

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function of the package and where it stands."""

    where: str
    "As in fovea.sae.topk:TopK.encode."
    node: FunctionNode
    is_method: bool


class Import(NamedTuple):
    """One imported module, wherever in the file the import stands."""

    module: str
    line: int


def tracked_files() -> list[Path]:
    """Files that are in git or would be added to it; without git, every file outside the ignored folders."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
        return sorted(path for name in set(names) if name and (path := ROOT / name).is_file())
    ignored = {".venv", "runs", "build", "dist", "__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ignored and not name.endswith(".egg-info")]
        found += [Path(folder) / name for name in names]
    return sorted(found)


def tracked_texts() -> dict[Path, str]:
    """The tracked files that are UTF-8 text, by path relative to the root."""
    texts = {}
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" in data[:4096]:
            continue
        try:
            texts[path.relative_to(ROOT)] = data.decode()
        except UnicodeDecodeError:
            continue
    return texts


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax tree of every module of the package, by dotted name."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


def imports(tree: ast.Module) -> Iterator[Import]:
    """Absolute names of what a module imports; `from a import b` counts as a.b, so that submodules are seen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write the absolute name"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def layer(module: str) -> int:
    """Position of a module in LAYERS, by the first name below `fovea`."""
    name = module.split(".")[1]
    for position, names in enumerate(LAYERS):
        if name in names:
            return position
    raise AssertionError(f"{module} has no place in LAYERS of tests/house.py; give it one (STYLE B2)")


def functions() -> Iterator[Function]:
    """Every function and method of the package, nested ones too."""
    for module, tree in trees().items():
        yield from _functions_in(tree, module + ":", is_method=False)


def _functions_in(node: ast.AST, prefix: str, *, is_method: bool) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield Function(prefix + child.name, child, is_method)
            yield from _functions_in(child, f"{prefix}{child.name}.", is_method=False)
        elif isinstance(child, ast.ClassDef):
            yield from _functions_in(child, f"{prefix}{child.name}.", is_method=True)
        else:
            yield from _functions_in(child, prefix, is_method=is_method)


def identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that a module gives to things: variables, attributes that it sets, arguments, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ClassDef):
            yield node.name, node.lineno


def kinds() -> dict[str, str]:
    """The `kind` of every method and architecture: kind -> module, read from `kind: Literal["..."]`."""
    found = {}
    for module, tree in trees().items():
        if layer_name(module) not in ("sae", "methods"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "kind":
                found |= {str(text): module for text in re.findall(r"Literal\['(\w+)'\]", ast.unparse(node.annotation))}
    return found


def layer_name(module: str) -> str:
    """First name below `fovea`, empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def documents() -> dict[Path, str]:
    """README, CONTRIBUTING and the pages of docs/, by path relative to the root."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT): path.read_text() for path in paths}


def fences(text: str, language: str) -> list[str]:
    """Contents of the code fences of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
