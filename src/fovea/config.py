"""Settings as values: frozen, unknown keys refused by name, read from toml, written back with every default."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from fovea.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every settings class."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(kind: type[ConfigT], table: dict[str, Any], *, where: str) -> ConfigT:
    """`table` as a `kind`.

    Raises:
        ConfigError: names each wrong key, its value, what is allowed and, for an unknown key, the nearest valid one.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        lines = [_explain(detail, kind) for detail in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a toml file.

    Raises:
        ConfigError: the file is missing, not UTF-8 or not toml.
    """
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"experiment file {str(path)!r} does not exist; give the path of a toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid toml ({error}); correct that line") from None


def dump_toml(config: Config, **changes: Any) -> str:
    """`config` as toml with every default written out, `changes` in place of what it holds under those names.

    Settings that are None are left out: toml has no null.
    """
    return tomli_w.dumps({**config.model_dump(mode="json", exclude_none=True), **changes})


def _explain(detail: ErrorDetails, kind: type[Config]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(detail["loc"][-1]), sorted(_field_names(kind)), n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown setting {key!r} = {detail['input']!r}{hint}"
    if detail["type"] == "missing":
        return f"setting {key!r} is missing; add it"
    return f"setting {key!r} = {detail['input']!r}: {detail['msg']}"


def _field_names(kind: type[BaseModel]) -> set[str]:
    """Names of all settings below `kind`, nested ones too."""
    names: set[str] = set()
    pending: list[type[BaseModel]] = [kind]
    seen: set[type[BaseModel]] = set()
    while pending:
        model = pending.pop()
        if model in seen:
            continue
        seen.add(model)
        names |= set(model.model_fields)
        pending += [found for field in model.model_fields.values() for found in _models_in(field.annotation)]
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models_in(argument)]
