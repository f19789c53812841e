"""Settings as values: frozen, unknown keys refused by name, read from toml, written back with every default."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from fovea.errors import ConfigError
from fovea.foreign import Refusal, read_text

MAX_TOML_BYTES = 2**20
"Of an experiment file; one has a few kilobytes."

_CORRECT = Refusal(ConfigError, "give the path of a toml file")
ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every settings class."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def flat(self) -> dict[str, Any]:
        """All settings by dotted name, entries of lists by number."""
        return _flat(self.model_dump(mode="json"), "")


def parse(kind: type[ConfigT], table: dict[str, Any], *, where: str) -> ConfigT:
    """`table` as a `kind`.

    Raises:
        ConfigError: names each wrong key, its value, what is allowed and, for an unknown key, the nearest valid one.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        lines = [_explain(detail, kind) for detail in _causes(error.errors())]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a toml file.

    Raises:
        ConfigError: the file is missing, no regular file, too large, not UTF-8 or not toml.
    """
    if not path.exists():
        raise ConfigError(f"experiment file {str(path)!r} does not exist; give the path of a toml file")
    real = path.resolve()
    return parse_toml(read_text(real, real.parent, _CORRECT, most=MAX_TOML_BYTES), where=str(path))


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """The tables of a toml text.

    Raises:
        ConfigError: it is not toml, nested too deep, or holds a number of thousands of digits.
    """
    try:
        tables = tomllib.loads(text)
        tomli_w.dumps(tables)  # what is nested too deep for that cannot be a setting
        return tables
    except RecursionError:
        raise ConfigError(f"{where}: not valid toml (nested too deep); settings are a few tables deep") from None
    except ValueError as error:
        raise ConfigError(f"{where}: not valid toml ({str(error)[:300]}); correct that line") from None


def dump_toml(config: Config, **changes: Any) -> str:
    """`config` as toml with every default written out, `changes` in place of what it holds under those names.

    Settings that are None are left out: toml has no null.
    """
    return tomli_w.dumps({**config.model_dump(mode="json", exclude_none=True), **changes})


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | list) or not value:
        return {name: value}
    parts: Any = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Any] = {}
    for part, inner in parts:
        found |= _flat(inner, f"{name}.{part}" if name else str(part))
    return found


def _causes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors that a user can mend, once each.

    Left out: a list called too short because its entries were refused, and what a sweep repeats.
    """
    places = [detail["loc"] for detail in details]
    found: dict[tuple[Any, ...], ErrorDetails] = {}
    for detail in details:
        loc = detail["loc"]
        follows = any(place != loc and place[: len(loc)] == loc for place in places)
        if detail["type"] == "too_short" and follows:
            continue
        name = tuple(part for part in loc if not isinstance(part, int))
        found.setdefault((name, detail["type"]), detail)
    return list(found.values())


def _place(loc: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[str, set[str]]:
    """The key as a user writes it (without the tags of unions), and the settings that its table may hold."""
    models: list[type[BaseModel]] = [kind]
    shown: list[str] = []
    for part in loc[:-1]:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [found for field in fields for found in _models_in(field.annotation)]
        elif not isinstance(part, int):  # the tag of a union, which no one writes
            models = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
            continue
        shown.append(str(part))
    return ".".join([*shown, str(loc[-1])]), {name for model in models for name in model.model_fields}


def _explain(detail: ErrorDetails, kind: type[Config]) -> str:
    key, here = _place(detail["loc"], kind)
    if detail["type"] == "extra_forbidden":
        wrong = str(detail["loc"][-1])
        near = difflib.get_close_matches(wrong, sorted(here), n=1)
        near = near or difflib.get_close_matches(wrong, sorted(_field_names(kind) - {wrong}), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; its table takes {', '.join(sorted(here))}"
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
