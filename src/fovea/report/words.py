"""Numbers as a reader wants them: fixed decimals, a real minus sign, intervals in brackets."""

from collections.abc import Sequence

MINUS = "\u2212"
DASH = "\u2013"


def number(value: int | float | None, digits: int = 3) -> str:
    """`value` with `digits` decimals (fewer above 100), a dash for None."""
    if value is None:
        return DASH
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return _minus(
            f"{value:.{digits + 3}f}".rstrip("0").rstrip(".") if abs(value) >= 10 ** -(digits + 3) else f"{value:.0e}"
        )
    places = digits if abs(value) < 100 else min(digits, 1)
    return _minus(f"{value:,.{places}f}")


def signed(value: int | float | None, digits: int = 3) -> str:
    """As `number`, with a plus sign where it is positive."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def count(value: int | float | None) -> str:
    """A whole number with thousands separators."""
    return DASH if value is None else _minus(f"{round(value):,}")


def interval(low: int | float | None, high: int | float | None, digits: int = 3) -> str:
    """ "[low, high]", or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def to(low: int | float | None, high: int | float | None) -> str:
    """ "low to high", for prose."""
    return f"{number(low)} to {number(high)}"


def scientific(value: int | float | None) -> str:
    """Two significant digits and a power of ten, for counts of operations."""
    if value is None:
        return DASH
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def one_in(density: int | float) -> str:
    """A density as a person says it: 1 in 2,100."""
    every = 1 / density
    return f"1 in {every:.1f}" if every < 10 else f"1 in {_round(every):,}"


def percent(share: int | float | None) -> str:
    """A share in percent, with one decimal below 10%; 0% and 100% are exact."""
    if share is None:
        return DASH
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{100 * share:.1f}%" if 0 < share < 0.0995 else f"{100 * share:.0f}%"


def listing(items: Sequence[str], last: str = "and") -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else "none"


def plural(n: int, one: str, many: str | None = None) -> str:
    """1 seed, 3 seeds."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _round(value: float) -> int:
    """Two significant digits."""
    scale = 10 ** max(len(str(int(value))) - 2, 0)
    return int(round(value / scale) * scale)


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
