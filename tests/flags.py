"""The command line as data: every verb with its arguments and flags, read from the program itself."""

from typing import Any

import typer


def command_flags() -> dict[str, list[str]]:
    """Verb (words joined by a space, empty for the program) -> sorted arguments in capitals and flags."""
    from fovea.cli import app  # imported here: documents can be tested where the command line does not import

    return dict(sorted(_walk(typer.main.get_command(app), "").items()))


def _walk(command: Any, path: str) -> dict[str, list[str]]:
    """Flags of a command and of the commands below it; a group is a command with `commands`."""
    names = [name for parameter in command.params for name in _names(parameter)]
    found = {path: sorted(set(names) - {"--help", "--install-completion", "--show-completion"})}
    for name, child in vars(command).get("commands", {}).items():
        found |= _walk(child, f"{path} {name}".strip())
    return found


def _names(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.name.upper()]
    return [*parameter.opts, *parameter.secondary_opts]
