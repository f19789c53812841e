"""Writes docs/reference/cli.md and experiment.md from the code. `make docs` runs it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.api import fields, settings  # noqa: E402
from tests.house import trees  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
CLI_HEAD = """# Command line

Written by `make docs` from the program. Exit codes: 0 done, 2 your mistake (one message says which), 3 another rank
was lost, 130 interrupted; after the last two the same command with `--resume` goes on.
"""
EXPERIMENT_HEAD = """# Experiment file

Written by `make docs` from the code. An experiment is one toml file: the tables below, `[[domain]]` and `[[job]]` once
for each. A key that is not here is refused. A list where one value belongs (a job's `seed`, or the sparsity of its
`sae`) is a sweep. `--set train.n_tokens=100000` changes one key from the command line. What every kind of method and
architecture does: [methods](../methods/ssae.md), [architectures](../architectures.md).
"""
TABLES = {
    "experiment.config.ExperimentConfig": "The file",
    "experiment.config.LMConfig": "`[lm]`",
    "experiment.config.TextConfig": "`[text]`",
    "experiment.config.GeneralConfig": "`[general]`",
    "experiment.config.DomainConfig": "`[[domain]]`",
    "experiment.config.CleanConfig": "`clean` of a domain",
    "experiment.config.TrainConfig": "`[train]`",
    "experiment.config.JobConfig": "`[[job]]`",
    "train.job.OptimiserConfig": "`optimiser` of a job",
    "train.schedules.LearningRateConfig": "`lr` of an optimiser",
    "experiment.config.EvaluateConfig": "`[evaluate]`",
    "experiment.config.ControlsConfig": "`[controls]`",
    "features.config.FeaturesConfig": "`[features]`",
    "sae.base.SAEConfig": "Every `sae`",
}
"Classes of settings in the order of the page -> their headings; methods and architectures follow."


def cli_page() -> str:
    """Every verb with its help, arguments and flags."""
    from fovea.cli import app

    return CLI_HEAD + "".join(_verbs(typer.main.get_command(app), "fovea"))


def _verbs(command: Any, path: str) -> Iterator[str]:
    children = vars(command).get("commands", {})
    if not children:
        usage = "".join(f"{each.name.upper()} " for each in command.params if each.param_type_name == "argument")
        yield f"\n## `{path}`\n\n{_text(command.help)}\n\n```text\n{path} {usage}[OPTIONS]\n```\n"
        rows = [_parameter(each) for each in command.params if each.name != "help"]
        yield "\n| | | default |\n|---|---|---|\n" + "".join(rows)
    for name, child in children.items():
        yield from _verbs(child, f"{path} {name}")


def _parameter(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    default = "required" if parameter.required else "" if parameter.default in (None, False) else parameter.default
    return f"| {', '.join(f'`{name}`' for name in names)} | {_cell(parameter.help or '')} | {_cell(str(default))} |\n"


def experiment_page() -> str:
    """Every key of an experiment file with its type and default."""
    found = settings()
    kinds = [name for name in found if "kind" in found[name]]
    assert not found.keys() - TABLES.keys() - set(kinds), "give each its place in TABLES"
    named = {**TABLES, **{name: f"`kind = {_kind(found[name])}`" for name in kinds}}
    return EXPERIMENT_HEAD + "".join(_table(name, heading) for name, heading in named.items())


def _kind(keys: dict[str, str]) -> str:
    return f'"{keys["kind"].partition("= ")[2].strip(chr(39))}"'


def _table(name: str, heading: str) -> str:
    module, _, class_name = name.rpartition(".")
    (node,) = (
        each for each in trees()[f"fovea.{module}"].body if isinstance(each, ast.ClassDef) and each.name == class_name
    )
    words = _words(node)
    rows = [
        f"| `{key}` | {_cell(said.partition(' = ')[0], code=True)} | {_default(said)} | {_cell(words.get(key, ''))} |\n"
        for key, said in fields(node).items()
        if key != "kind" and "ClassVar" not in said
    ]
    table = "\n| key | type | default | |\n|---|---|---|---|\n" + "".join(rows) if rows else ""
    return f"\n## {heading}\n\n{_text(ast.get_docstring(node))}\n{table}"


def _default(said: str) -> str:
    """What stands after `=`, read out of Field(...) where there is one; required where there is nothing."""
    text = said.partition(" = ")[2]
    if text.startswith("Field("):
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        text = next((ast.unparse(each.value) for each in call.keywords if each.arg == "default"), "")
    if text.endswith("Config()"):
        return "as below"
    return _cell(_constant(text), code=True) if text else "required"


def _constant(text: str) -> str:
    """The value of a constant that `text` names, or `text`."""
    named = [
        ast.unparse(node.value)
        for tree in trees().values()
        for node in tree.body
        if text.isupper() and isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == text
    ]
    return named[0] if named else text


def _words(node: ast.ClassDef) -> dict[str, str]:
    """The sentence that stands below a field."""
    found = {}
    for above, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(above.target)] = str(below.value.value)
    return found


def _text(text: str | None) -> str:
    """A docstring without its Args and Raises."""
    kept = (text or "").split("\n\nArgs:")[0].split("\n\nRaises:")[0]
    return kept.strip()


def _cell(text: str, *, code: bool = False) -> str:
    """Text on one line that does not end a cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return f"`{line}`" if code and line else line


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, page in {"cli.md": cli_page(), "experiment.md": experiment_page()}.items():
        (FOLDER / name).write_text(page)
        print(f"wrote docs/reference/{name}")
