"""What the table is asked for, read from the address and refused where it makes no sense."""

import math
import re
from typing import NamedTuple

from starlette.datastructures import QueryParams

from fovea.errors import ConfigError

SORTS = (
    "job",
    "latent",
    "density_domain",
    "density_general",
    "ratio",
    "novelty_decoder",
    "novelty_encoder",
    "nearest_general",
    "flag",
)
RANGED = ("latent", "density_domain", "density_general", "ratio", "novelty_decoder", "novelty_encoder")
SHOWS = ("all", "trained", "controls", "domain", "only", "dead", "flagged")
MAX_TEXT = 200
MAX_PAGE = 500


class Range(NamedTuple):
    """Bounds of a column, both included."""

    column: str
    low: float
    high: float


class Query(NamedTuple):
    """Which latents, in what order."""

    sort: str | None = None
    "None: the table's own order."
    is_descending: bool = True
    jobs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    show: str = "all"
    ranges: tuple[Range, ...] = ()


class Page(NamedTuple):
    """Which of them are wanted."""

    offset: int
    limit: int


def read_query(given: QueryParams) -> Query:
    """The query of an address: sort, order, job (repeatable), q, show, min-COLUMN, max-COLUMN.

    Raises:
        ConfigError: a value is not one of those allowed.
    """
    text = given.get("q", "")
    if len(text) > MAX_TEXT:
        raise ConfigError(f"q: {len(text)} characters, at most {MAX_TEXT} are searched for")
    return Query(
        sort=_choice(given, "sort", SORTS, SORTS[0]) if "sort" in given else None,
        is_descending=_choice(given, "order", ("descending", "ascending"), "descending") == "descending",
        jobs=tuple(dict.fromkeys(given.getlist("job"))),
        words=tuple(quoted or bare for quoted, bare in re.findall(r'"([^"]+)"|(\S+)', text.casefold())),
        show=_choice(given, "show", SHOWS, "all"),
        ranges=tuple(found for column in RANGED if (found := _range(given, column)) is not None),
    )


def read_page(given: QueryParams) -> Page:
    """Offset and limit of an address.

    Raises:
        ConfigError: not whole numbers, or a limit above MAX_PAGE.
    """
    page = Page(_whole(given, "offset", 0), _whole(given, "limit", 100))
    if page.limit > MAX_PAGE:
        raise ConfigError(f"limit: {page.limit}, at most {MAX_PAGE} rows are given at once")
    return page


def _whole(given: QueryParams, key: str, default: int) -> int:
    text = given.get(key, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigError(f"{key}: a whole number is needed")
    return int(text)


def _choice(given: QueryParams, key: str, allowed: tuple[str, ...], default: str) -> str:
    value = given.get(key, default)
    if value not in allowed:
        raise ConfigError(f"{key}: not one of {', '.join(allowed)}")
    return value


def _range(given: QueryParams, column: str) -> Range | None:
    if f"min-{column}" not in given and f"max-{column}" not in given:
        return None
    low, high = (_bound(given, f"{end}-{column}", default) for end, default in (("min", -math.inf), ("max", math.inf)))
    return Range(column, low, high)


def _bound(given: QueryParams, key: str, default: float) -> float:
    try:
        value = float(given.get(key, default))
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ConfigError(f"{key}: a number is needed")
    return value
