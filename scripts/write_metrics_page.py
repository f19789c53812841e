"""Writes docs/metrics.md from fovea.eval.definitions, the one list of what is measured. Run it with `make docs`."""

from pathlib import Path

from fovea.eval.definitions import DEFINITIONS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
HEAD = """# Metrics

Written by `make docs` from `src/fovea/eval/definitions.py`; a test holds the two together.

L is the loss of a token in nats under the patched lm, L_clean unpatched, L_g with g(x) patched in, L_zero and L_mean
with zero or the mean in place of x. Every ratio is a ratio of float64 sums over tokens, never a mean of ratios. Each
record in `metrics.jsonl` has its value, a 95% interval by bootstrap over documents, numbers of tokens and documents,
corpus, split, seed and fingerprints; what is missing is null and says why.

| id | what | formula | unit | better | note |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The page, one line per definition."""
    lines = []
    for each in DEFINITIONS.values():
        note = " ".join(part for part in (each.note, f"Source: {each.source}." if each.source else "") if part)
        cells = (
            f"`{each.id}`",
            each.name,
            f"`{each.formula}`",
            each.unit,
            "-" if each.direction == "none" else each.direction,
            note,
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote docs/{PAGE.name}")
