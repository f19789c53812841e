"""The house rules of the code (docs/architecture.md, CONTRIBUTING.md): each is a test, and each can fail."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.house import (
    ROOT,
    SRC,
    Function,
    functions,
    identifiers,
    imports,
    kinds,
    layer,
    layer_name,
    tracked_files,
    trees,
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
MAX_POSITIONAL = 3
MAX_CONFIG_FIELDS = 12
MAX_DEPENDENCIES = 12

EXEMPT: dict[str, str] = {
    f"fovea.triton_source:{name}": "a kernel takes its pointers and sizes one by one"
    for name in ("gather_kernel", "sampled_kernel")
}
"Functions that may break a size rule, each with its reason; an entry that is no longer needed fails a test."

RECORDS = {
    "fovea.eval.records:MetricRecord": "a line of metrics.jsonl, whose keys the run folder's contract fixes",
}
"Frozen classes that are records and not settings: they may have more fields."

BANNED_NAMES = {
    "activation_dim": "d_in",
    "dict_size": "d_sae",
    "acts": "x",
    "recon": "x_hat",
    "hidden_pre": "pre",
    "feature_acts": "latents",
    "f": "a word",
    "neuron": "latent",
    "neurons": "latents",
    "gsae": "g, or general",
    "base_sae": "g, or general",
    "score": "what it measures",
    "window": "the count with its unit, as in dead_after_tokens",
    "dead_threshold": "dead_after_tokens",
    "dead_feature_threshold": "dead_after_tokens",
    "dead_feature_window": "dead_after_tokens",
}
"Variables, arguments, attributes and classes that docs/glossary.md has another word for. JumpReLU may say `threshold`."


FORBIDDEN_IMPORTS = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"print", "eval", "exec", "hasattr", "torch.load", "torch.save"}
ALLOWED_CALLS = {("fovea.sae.formats.dictionary_learning", "torch.save"): "ae.pt is a pickle: the layout is not ours"}
"Forbidden calls that one module may make, each with its reason; an entry that is no longer needed fails a test."

PACKAGE_OF = {
    "vl_convert": "vl-convert-python",
    "sae_lens": "sae-lens",
    "tomli_w": "tomli-w",
    "pydantic_core": "pydantic",
    "rich": "typer",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
    "filelock": "datasets",
    "pandas": "datasets",
}
"Import name -> the declared package that is it, or that is built on it and cannot be installed without it."

LAZY = {
    "torch",
    "transformers",
    "datasets",
    "pyarrow",
    "pandas",
    "vl_convert",
    "gguf",
    "playwright",
    "uvicorn",
}
"Heavy packages that `import fovea` must not load."

MODULES = sorted(trees())


def at(module: str, line: int) -> str:
    return f"{module} line {line}"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "fovea"])
def test_imports_point_left_only(module: str) -> None:
    own = layer(module)
    wrong = []
    for name, line in imports(trees()[module]):
        if not name.startswith("fovea.") or name == "fovea.__version__":
            continue
        if layer(name) > own:
            wrong.append(f"{at(module, line)} imports {name}, which comes later in the pipeline")
    assert not wrong, "\n".join(wrong)


def test_shapes_are_checked_wherever_arrays_are_annotated() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    (hook,) = (option for option in options if option.startswith("--jaxtyping-packages="))
    *checked, checker = hook.partition("=")[2].split(",")
    assert checker == "beartype.beartype"
    annotated = {
        module for module, tree in trees().items() if any(name.startswith("jaxtyping") for name, _ in imports(tree))
    }
    assert annotated, "no module annotates arrays: the search is wrong"
    missed = {module for module in annotated if not any(f"{module}.".startswith(f"{each}.") for each in checked)}
    assert not missed, f"add them to --jaxtyping-packages in pyproject.toml: {sorted(missed)}"


def test_no_two_modules_import_each_other() -> None:
    """At import time: an import inside a function may close a circle."""
    needs = {module: _needed_at_import(tree) - {module} for module, tree in trees().items() if module != "fovea"}
    done = {"fovea"}
    while ready := {module for module in needs.keys() - done if needs[module] <= done}:
        done |= ready
    assert needs.keys() <= done, f"these import each other in a circle: {sorted(needs.keys() - done)}"


def _needed_at_import(tree: ast.Module) -> set[str]:
    """Modules of the package that the top level of `tree` imports."""
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    named = {found.module for found in imports(top)}
    return (named | {name.rpartition(".")[0] for name in named}) & set(MODULES) - {"fovea"}


def test_only_methods_ask_which_method_it_is() -> None:
    named_methods = {kind for kind, module in kinds().items() if layer_name(module) == "methods"}
    wrong = []
    for module, tree in trees().items():
        if layer_name(module) in ("methods", "report"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                named = {
                    part.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
                wrong += [f"{at(module, node.lineno)} compares with {kind!r}" for kind in named & named_methods]
    assert not wrong, "\n".join(wrong) + "\nput what differs into the method's own file"


def test_files_have_at_most_400_lines() -> None:
    paths = [path for path in tracked_files() if path.suffix == ".py"]
    long = {
        str(path.relative_to(ROOT)): n for path in paths if (n := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert not long, f"split them: {long}"


def test_functions_have_at_most_60_lines() -> None:
    long = {function.where: n for function in functions() if (n := _n_lines(function)) > MAX_FUNCTION_LINES}
    assert not long.keys() - EXEMPT.keys(), f"split them: {long}"


def test_functions_have_at_most_6_parameters_and_at_most_3_positional() -> None:
    wrong = {function.where: fault for function in functions() if (fault := _parameter_fault(function))}
    assert not wrong.keys() - EXEMPT.keys(), f"{wrong}"


def test_every_exemption_is_needed_and_has_a_reason() -> None:
    broken = {f.where for f in functions() if _parameter_fault(f) or _n_lines(f) > MAX_FUNCTION_LINES}
    assert set(EXEMPT) <= broken, f"no longer needed: {set(EXEMPT) - broken}"
    assert all(EXEMPT.values())


def _n_lines(function: Function) -> int:
    return (function.node.end_lineno or function.node.lineno) - function.node.lineno + 1


def _parameter_fault(function: Function) -> str:
    """What is wrong with the parameters, or nothing; private functions may have more positional ones than public ones.

    Special methods and verbs of the cli are left out: their callers are Python and typer.
    """
    name, arguments = function.node.name, function.node.args
    decorators = {ast.unparse(decorator) for decorator in function.node.decorator_list}
    if (name.startswith("__") and name.endswith("__") and name != "__init__") or any(
        ".command(" in each for each in decorators
    ):
        return ""
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if (function.is_method and "staticmethod" not in decorators) or positional[:1] == ["ctx"]:
        positional = positional[1:]
    if len(positional) + len(arguments.kwonlyargs) > MAX_PARAMETERS:
        return f"{len(positional) + len(arguments.kwonlyargs)} parameters"
    is_private = any(
        part.startswith("_") and part != "__init__" for part in function.where.partition(":")[2].split(".")
    )
    return f"{positional} are positional" if len(positional) > MAX_POSITIONAL and not is_private else ""


def test_config_classes_have_at_most_12_fields() -> None:
    wide = {}
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any("Config" in ast.unparse(base) for base in node.bases):
                n_fields = sum(isinstance(statement, ast.AnnAssign) for statement in node.body)
                wide |= {f"{module}:{node.name}": n_fields} if n_fields > MAX_CONFIG_FIELDS else {}
    assert wide.keys() == RECORDS.keys(), f"group their fields: {wide}"


def test_no_banned_names() -> None:
    wrong = [
        f"{at(module, line)}: {name!r}, say {BANNED_NAMES[name]}"
        for module, tree in trees().items()
        for name, line in identifiers(tree)
        if name in BANNED_NAMES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", MODULES)
def test_no_forbidden_call_import_or_construct(module: str) -> None:
    wrong = [name for name, _ in imports(trees()[module]) if name.partition(".")[0] in FORBIDDEN_IMPORTS]
    for node in ast.walk(trees()[module]):
        fault = _fault(node, module)
        wrong += [f"{at(module, getattr(node, 'lineno', 0))}: {fault}"] if fault else []
    assert not wrong, "\n".join(wrong)


def test_every_allowed_call_is_made() -> None:
    made = {
        (module, ast.unparse(node.func))
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    assert not ALLOWED_CALLS.keys() - made, "no longer needed"
    assert all(ALLOWED_CALLS.values())


def _fault(node: ast.AST, module: str) -> str:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
        allowed = (module, ast.unparse(node.func)) in ALLOWED_CALLS
        return "" if allowed else f"calls {ast.unparse(node.func)}"
    if (
        isinstance(node, ast.keyword)
        and node.arg in ("trust_remote_code", "allow_pickle")
        and ast.unparse(node.value) != "False"
    ):
        return f"sets {node.arg} to something else than False"
    if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "BaseException"):
        return "catches everything"
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return "imports from __future__ (jaxtyping reads annotations as values)"
    if isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__getattribute__"):
        return f"defines {node.name}"
    return ""


@pytest.mark.parametrize("module", MODULES)
def test_modules_open_with_a_docstring_and_are_ascii(module: str) -> None:
    assert ast.get_docstring(trees()[module]), "say in a paragraph what it is"
    path = SRC.parent / module.replace(".", "/")
    source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    strange = [f"line {n}: {line}" for n, line in enumerate(source.read_text().splitlines(), 1) if not line.isascii()]
    assert not strange, "\n".join(strange)


@pytest.mark.parametrize("module", MODULES)
def test_all_equals_the_public_names(module: str) -> None:
    tree = trees()[module]
    listed = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if not listed:
        return
    public = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            public |= {target.id for target in targets if isinstance(target, ast.Name)}
    public = {name for name in public if not name.startswith("_")}
    named = set(ast.literal_eval(listed[0].value)) - {"__version__"}
    assert named == public


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert not {module for module in MODULES if module.rpartition(".")[2] in drawers}


@pytest.mark.parametrize("folder", sorted(path.name for path in SRC.iterdir() if (path / "__init__.py").exists()))
def test_tests_mirror_the_package(folder: str) -> None:
    assert list((ROOT / "tests" / folder).glob("test_*.py")), f"add tests/{folder}/test_*.py"


def test_import_fovea_loads_nothing_heavy() -> None:
    code = "import sys, fovea; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=SRC.parent)
    assert "fovea" in run.stdout.split()
    assert not LAZY & set(run.stdout.split())


def test_there_are_at_most_12_direct_dependencies_and_all_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= MAX_DEPENDENCIES
    optional = project["optional-dependencies"]
    extras = [requirement for extra in ("report", "app", "dev", "docs") for requirement in optional[extra]]
    pinned = {_normal(line.partition("==")[0]) for line in Path(ROOT / "constraints.txt").read_text().splitlines()}
    missing = {_normal(requirement) for requirement in project["dependencies"] + extras} - pinned
    assert not missing, f"pin them in constraints.txt: {missing}"


def test_every_imported_package_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {_normal(name) for name in project["dependencies"]}
    declared |= {_normal(name) for names in project["optional-dependencies"].values() for name in names}
    used = {
        name.partition(".")[0]: at(module, line) for module, tree in trees().items() for name, line in imports(tree)
    }
    foreign = {name: where for name, where in used.items() if name not in sys.stdlib_module_names | {"fovea"}}
    undeclared = {name: where for name, where in foreign.items() if _normal(PACKAGE_OF.get(name, name)) not in declared}
    assert not undeclared, f"add them to pyproject.toml: {undeclared}"


def _normal(requirement: str) -> str:
    name = requirement
    for end in "[<>=!~;# ":
        name = name.partition(end)[0]
    return name.lower().replace("_", "-").replace(".", "-")
