"""Writes the tables of docs/performance.md from benchmarks/results/*.json, each under the command that made it.

python benchmarks/render.py            rewrite what stands between the marks
python benchmarks/render.py --check    say whether the page and the results agree (exit code 1 if not)

The page's own words stay: only what lies between `<!-- results: NAME -->` and `<!-- end -->` is replaced, by the newest
result of that name. A benchmark without a result says so.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

from fovea.bench.summary import together  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
MARKS = re.compile(r"<!-- results: ([a-z0-9]+) -->\n.*?<!-- end -->", re.DOTALL)
HEADER = (
    "| | tokens/s | us/token | spread | CPU us/token | times as long as fovea | of the fp32 matmul peak | "
    "of the encoder product's speed | peak MiB |"
)


def main() -> None:
    """Rewrite or check the page."""
    text = PAGE.read_text()
    found = collected()
    new = MARKS.sub(lambda match: f"<!-- results: {match[1]} -->\n{section(match[1], found)}<!-- end -->", text)
    if "--check" in sys.argv:
        sys.exit(0 if new == text else f"{PAGE.name} and the results differ; run benchmarks/render.py")
    PAGE.write_text(new)
    print(f"wrote {PAGE.relative_to(ROOT)}")


def collected() -> dict[str, list[dict[str, Any]]]:
    """Benchmark name -> results that hold it, one a machine, in the order of their files' names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        for name, benchmark in result["benchmarks"].items():
            found.setdefault(name, []).append({**result, "benchmark": benchmark, "file": path.name})
    return found


def section(name: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """What stands between the marks of one benchmark."""
    if name == "machines":
        return machines(found)
    if name == "together":
        return all_in_all(found)
    if name not in found:
        return "Not measured yet.\n"
    return "\n".join(one(result) for result in found[name])


def machines(found: dict[str, list[dict[str, Any]]]) -> str:
    """Every machine that results are from."""
    seen: dict[str, str] = {}
    for results in found.values():
        for result in results:
            machine = result["machine"]
            key = json.dumps([machine["processor"], machine["cores"], machine["packages"]])
            packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
            seen[key] = (
                f"- {machine['processor']}, {machine['cores']} cores, {', '.join(machine['vector_instructions'])}, "
                f"{machine['memory_gib']} GiB; Python {machine['python']}, {packages}; bf16: {result['bf16']}\n"
            )
    return "".join(seen.values()) or "Not measured yet.\n"


def one(result: dict[str, Any]) -> str:
    """The tables and numbers of one result, under its command."""
    parts = [f"`{result['command']}` on {result['machine']['processor']}, {result['machine']['cores']} cores\n"]
    for group in result["benchmark"]["groups"]:
        n_rounds = max((len(row.get("rounds", ())) for row in group["rows"]), default=0)
        parts.append(f"**{group['title']}** (medians of {n_rounds} rounds)\n")
        lines = [
            HEADER,
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *(row_of(row, n_rounds) for row in group["rows"]),
        ]
        parts.append("\n".join(lines) + "\n")
    numbers = dict(result["benchmark"].get("numbers", {}))
    if stages := numbers.pop("stages", None):
        parts.append(roofline_table(stages))
    numbers = lines_of(numbers)
    return "\n".join(parts) + (f"\n{numbers}" if numbers else "")


def roofline_table(stages: dict[str, dict[str, Any]]) -> str:
    """Each stage against its limit, and where its time goes."""
    kinds = sorted({kind for stage in stages.values() for kind in stage["share_of_time"]})
    lines = [
        f"| | FLOPs a byte | limit, GFLOP/s | reached | of the limit | {' | '.join(f'time: {k}' for k in kinds)} |",
        f"|---|{'---:|' * (4 + len(kinds))}",
    ]
    for name, stage in stages.items():
        shares = " | ".join(f"{stage['share_of_time'].get(kind, 0.0):.0%}" for kind in kinds)
        lines.append(
            f"| {name} | {stage['flops_per_byte']:,.0f} | {stage['limit_gflops']:,.0f} | {stage['gflops']:,.0f} | "
            f"{stage['share_of_limit']:.0%} | {shares} |"
        )
    return "\n".join(lines) + "\n"


def all_in_all(found: dict[str, list[dict[str, Any]]]) -> str:
    """Training and evaluation together, from the results of both on one machine; the newest of each."""
    if not ("e2e" in found and "eval" in found):
        return "Not measured yet.\n"
    trained, evaluated = found["e2e"][-1], found["eval"][-1]
    about = [each["benchmark"]["groups"][0]["about"] for each in (trained, evaluated)]
    numbers = together(trained["benchmark"], evaluated["benchmark"])
    first = f"{about[0]['train_tokens']:,} tokens an SAE in training, {about[1]['tokens']:,} in evaluation:\n\n"
    return (first + lines_of(numbers)) if numbers else "Not measured yet.\n"


def row_of(row: dict[str, Any], n_rounds: int) -> str:
    """One row as markdown; it says its rounds where they are fewer than the table's."""
    if "us_per_token" not in row:
        return f"| {row['variant']} | failed: {row.get('error', 'not run')} | | | | | | | |"
    if row["variant"].startswith("matmul peak"):
        return f"| {row['variant']} | {row['gflops']:,.0f} GFLOP/s | | {row['spread']:.0%} | | | 1.00 | | |"
    times = "" if row["times_ours"] is None else f"{row['times_ours']:.2f}"
    fraction = "" if row["fraction_of_peak"] is None else f"{row['fraction_of_peak']:.2f}"
    of_limit = "" if row.get("fraction_of_limit") is None else f"{row['fraction_of_limit']:.0%}"
    few = "" if len(row["rounds"]) == n_rounds else f" ({len(row['rounds'])} of the rounds)"
    return (
        f"| {row['variant']}{few} | {row['tokens_per_second']:,.0f} | {row['us_per_token']:,.1f} | "
        f"{row['spread']:.0%} | {row['cpu_us_per_token']:,.1f} | {times} | {fraction} | {of_limit} | "
        f"{row['peak_rss_mib']:,.0f} |"
    )


def lines_of(numbers: dict[str, Any], prefix: str = "") -> str:
    """Numbers as a list; nested names are joined."""
    lines = ""
    for name, value in numbers.items():
        title = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            lines += lines_of(value, f"{title}, ")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else "not measured" if value is None else str(value)
            lines += f"- {title}: {shown}\n"
    return lines


if __name__ == "__main__":
    main()
