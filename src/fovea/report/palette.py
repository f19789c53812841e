"""Colours, marker shapes and dashes of the methods, light and dark.

Okabe and Ito's colour-blind-safe set; a method keeps its slot in every figure and table, and shape and dash repeat
what colour says. Dark values are the same hues, raised in lightness: the page recolours the one drawing by rule.
"""

from collections.abc import Sequence
from typing import NamedTuple

INK, MUTED, GRID, PAPER, BAND = "#1f2328", "#6b7280", "#e4e6ea", "#ffffff", "#f3f4f6"
CONTROL = "#8c939d"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


class Look(NamedTuple):
    """How a method is drawn."""

    slot: int
    colour: str
    shape: str
    dash: tuple[int, ...]

    @property
    def size(self) -> int:
        """Area of the marker in square pixels: shapes look equally large."""
        return {"circle": 48, "square": 46, "cross": 46}.get(self.shape, 66)


LOOKS = (
    Look(0, "#0072b2", "circle", (1, 0)),
    Look(1, "#d55e00", "square", (7, 3)),
    Look(2, "#009e73", "triangle-up", (2, 2)),
    Look(3, "#cc79a7", "diamond", (9, 3, 2, 3)),
    Look(4, "#e69f00", "triangle-down", (4, 2)),
    Look(5, "#56b4e9", "triangle-right", (1, 3)),
    Look(6, "#8a6d1b", "triangle-left", (6, 2, 1, 2)),
)
FIXED = {"direct": 0, "finetune": 1, "ssae": 2, "mix": 3, "extend": 4, "stitch": 5, "boost": 6}
G_LOOK = Look(7, INK, "diamond", (1, 0))
CONTROL_LOOK = Look(8, CONTROL, "cross", (1, 0))

RAMP = (
    "#e3eef8", "#d0e1f2", "#b7d4ea", "#94c4df", "#6aaed6", "#4a98c9", "#2e7ebc", "#1764ab", "#084a91", "#08306b",
)  # fmt: skip
"Ordered points, few to many."
_DARK_RAMP = (
    "#1b2a3a", "#20344a", "#26405c", "#2d4f73", "#35608c", "#4177ab", "#5b93c7", "#7eb0dc", "#a6cbea", "#cfe4f6",
)  # fmt: skip

DARK = {
    INK: "#e6e8eb",
    MUTED: "#9aa3ad",
    GRID: "#30363d",
    PAPER: "#14171a",
    BAND: "#1d2126",
    CONTROL: "#7d8590",
    "#0072b2": "#58a6e8",
    "#d55e00": "#f2894a",
    "#009e73": "#35c49a",
    "#cc79a7": "#e3a1c6",
    "#e69f00": "#f0b83e",
    "#56b4e9": "#8fd0f5",
    "#8a6d1b": "#c9a94e",
    **dict(zip(RAMP, _DARK_RAMP, strict=True)),
}


def assign_looks(names: Sequence[tuple[str, str]]) -> dict[str, Look]:
    """A look for each (name, method): the first of a method takes its fixed slot, all others the free ones in turn."""
    looks: dict[str, Look] = {}
    for name, method in names:
        if method in FIXED and LOOKS[FIXED[method]] not in looks.values():
            looks[name] = LOOKS[FIXED[method]]
    rest = [name for name, _ in names if name not in looks]
    free = [look for look in LOOKS if look not in looks.values()] or list(LOOKS)
    return looks | {name: free[i % len(free)] for i, name in enumerate(rest)}
