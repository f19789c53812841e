"""Tables on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = ("variant", "tokens/s", "us/token", "spread", "cpu us", "x ours", "of peak", "of encoder", "peak RSS MiB")


def table_of(group: Mapping[str, Any]) -> Table:
    """One group's rows."""
    table = Table(title=group["title"], title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in group["rows"]:
        table.add_row(*cells(row))
    return table


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text; what was not measured is a dash, and a failure says why."""
    if "us_per_token" not in row:
        return [row["variant"], *["-"] * (len(_COLUMNS) - 2), row.get("error", "not run").splitlines()[-1][:60]]
    return [
        row["variant"],
        f"{row['tokens_per_second']:,.0f}",
        f"{row['us_per_token']:,.2f}",
        f"{row['spread']:.0%}",
        f"{row['cpu_us_per_token']:,.1f}",
        _or_dash(row["times_ours"], "{:.2f}"),
        _or_dash(row["fraction_of_peak"], "{:.2f}"),
        _or_dash(row["fraction_of_limit"], "{:.0%}"),
        f"{row['peak_rss_mib']:,.0f}",
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print every group and every number of a benchmark."""
    console = console or Console()
    for group in result["groups"]:
        console.print(table_of(group))
    for name, value in result.get("numbers", {}).items():
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
