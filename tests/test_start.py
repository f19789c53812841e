"""What starting costs: `fovea --help` and `import fovea` load a handful of modules and nothing heavy."""

import json
import subprocess
import sys

from tests.flags import command_flags
from tests.house import SRC

CLI_PACKAGES = {
    "fovea",
    "typer",
    "rich",
    "attr",  # by rich, where it is installed
    "annotated_doc",  # of typer
    "annotated_types",  # of pydantic
    "click",  # of typer
    "markdown_it",  # of rich
    "mdurl",  # of rich
    "pydantic",  # of typer, which checks values with it
    "pydantic_core",  # of pydantic
    "pygments",  # of rich
    "shellingham",  # of typer
    "typing_extensions",  # of typer
    "typing_inspection",  # of pydantic
}
"All that a page of help may load from outside the standard library."

CLI_MODULES = {"fovea", "fovea.cli", "fovea.errors", "fovea.guarded", "fovea.handover"}

HELP = """
import json, sys
before = set(sys.modules)
from fovea.cli import main
for verb in json.loads(sys.argv[1]):
    sys.argv = ["fovea", *verb.split(), "--help"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, verb
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""


def test_help_of_every_verb_loads_the_command_line_alone() -> None:
    verbs = sorted(command_flags())
    command = [sys.executable, "-c", HELP, json.dumps(verbs)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=SRC.parent)
    assert run.stdout.count("Usage: fovea") == len(verbs)
    loaded = set(json.loads(run.stderr.splitlines()[-1]))
    outside = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    foreign = {name for name in outside - CLI_PACKAGES if not name.startswith("_")}
    assert not foreign, f"import them inside the verb that needs them: {foreign}"
    own = {name for name in loaded if name.partition(".")[0] == "fovea"}
    assert own == CLI_MODULES, f"import them inside the verb that needs them: {own - CLI_MODULES}"


def test_import_fovea_loads_the_standard_library_alone() -> None:
    code = "import sys; before = set(sys.modules); import fovea; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=SRC.parent)
    loaded = set(run.stdout.split())
    assert "fovea" in loaded
    assert {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) == {"fovea"}
    assert {name for name in loaded if name.startswith("fovea.")} == set()
