"""The public interface as data, read from the source: signatures, members, errors, settings, keys of records."""

import ast
from typing import Any

from tests.house import trees

RETURNED = {
    "Run": "fovea.api",
    "Encoding": "fovea.api",
    "LM": "fovea.lm.model",
    "LoadedSAE": "fovea.sae.files",
    "SAEMetadata": "fovea.sae.files",
}
"Classes of what the functions of `import fovea` return -> their modules."

SETTINGS = ("fovea.experiment.config", "fovea.features.config", "fovea.train.job", "fovea.train.schedules")
"Modules with settings of an experiment file; methods and architectures are found by their `kind`."


def interface() -> dict[str, Any]:
    """All that tests/golden/api.json freezes."""
    functions = {node.name: signature(node) for node in trees()["fovea"].body if isinstance(node, ast.FunctionDef)}
    return {
        "functions": functions,
        "classes": {name: members(_class(module, name)) for name, module in RETURNED.items()},
        "errors": {
            node.name: [ast.unparse(base) for base in node.bases]
            for node in trees()["fovea.errors"].body
            if isinstance(node, ast.ClassDef)
        },
        "metrics.jsonl": fields(_class("fovea.eval.records", "MetricRecord")),
        "experiment": settings(),
    }


def settings() -> dict[str, dict[str, str]]:
    """Every class of settings that an experiment file can hold: name -> its keys with type and default."""
    found = {}
    for module, tree in trees().items():
        if module in SETTINGS or module.startswith(("fovea.methods.", "fovea.sae.")):
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and _is_settings(node) and fields(node):
                    found[f"{module.removeprefix('fovea.')}.{node.name}"] = fields(node)
    return found


def signature(node: ast.FunctionDef) -> str:
    """Parameters and result as in the source."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){result}"


def fields(node: ast.ClassDef) -> dict[str, str]:
    """Annotated fields: name -> type, with the default where there is one."""
    return {
        statement.target.id: ast.unparse(statement.annotation)
        + (f" = {ast.unparse(statement.value)}" if statement.value else "")
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def members(node: ast.ClassDef) -> dict[str, str]:
    """Public fields, properties and methods of a class."""
    methods = {
        each.name: signature(each)
        for each in node.body
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
    }
    return {**fields(node), **methods}


def _class(module: str, name: str) -> ast.ClassDef:
    (found,) = (node for node in trees()[module].body if isinstance(node, ast.ClassDef) and node.name == name)
    return found


def _is_settings(node: ast.ClassDef) -> bool:
    """Whether its bases say Config, or it has a `kind`."""
    is_config = "kind" in fields(node) or any("Config" in ast.unparse(base) for base in node.bases)
    return is_config and node.name not in RETURNED
