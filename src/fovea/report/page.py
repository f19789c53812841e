"""report.html: a run folder as one page that needs no network, with its figures beside it as SVG and PNG.

    run folder --read_run--> RunData --finding--> words
                                     --pareto, density, novelty--> figures/*.svg, figures/*.png, inline SVG
                                     --results, sheets--> tables          --template--> report.html

The same folder gives the same bytes: nothing here looks at the clock.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fovea.atomic import write_text
from fovea.config import parse_toml
from fovea.foreign import damage
from fovea.report.density import density_figure
from fovea.report.drawing import Drawn, Figure, require_extra, write_figure
from fovea.report.finding import Verdict, finding, seeds_by_method, verdict
from fovea.report.novelty import novelty_figure
from fovea.report.palette import DARK, LOOKS
from fovea.report.pareto import VIEWS, pareto_figure
from fovea.report.results import results
from fovea.report.rundata import AGAIN, RunData, read_run
from fovea.report.sheets import comparisons, definitions, flat, ledger
from fovea.report.studies import StudyView, studies
from fovea.report.words import listing, plural

TEMPLATES = Path(__file__).parent / "templates"
CONTENT = {
    "figure-1": "Loss recovered",
    "figure-2": "Rarity",
    "figure-3": "Novelty",
    "studies": "Blind rating",
    "results": "Results",
    "matched": "Matched L0",
    "ledger": "Ledger",
    "definitions": "Definitions",
    "excluded": "Left out",
    "provenance": "Provenance",
}


class Facts(NamedTuple):
    """What the head of the page says of the run."""

    title: str
    subtitle: str
    command: str
    commit: str


def write_report(run: Path) -> Path:
    """Write report.html and figures/ of the run in folder `run`; the path of the page.

    Raises:
        RunError: the folder holds no metrics, or a file of it is damaged.
        ConfigError: the `report` extra is not installed.
    """
    require_extra()
    html = page_of(run, draw=partial(write_figure, folder=run / "figures"))
    path = run / "report.html"
    write_text(path, html)
    return path


def page_of(run: Path, *, draw: Callable[[Figure], Drawn]) -> str:
    """The page of the run in folder `run`, its figures drawn by `draw`.

    Raises:
        RunError: the run has not been evaluated, or a file of it is damaged.
    """
    data = read_run(run)
    with damage(run, AGAIN):
        verdicts = [verdict(data, domain) for domain in data.domains]
        matched = {v.domain: v.l0 for v in verdicts}
        pareto = _draw([pareto_figure(data, view, matched=matched) for view in VIEWS], draw)
        density = _draw(_per_domain(data, "density", density_figure), draw)
        novelty = _draw(_per_domain(data, "novelty", novelty_figure), draw)
        rated = [(view, draw(view.figure)) for view in studies(run)]
        return _render(data, verdicts, rated, pareto=pareto, density=density, novelty=novelty)


def _per_domain(data: RunData, kind: str, make: Callable[..., Figure | None]) -> list[Figure | None]:
    names: list[str] = []
    for i, domain in enumerate(data.domains):
        slug = re.sub(r"[^a-z0-9]+", "-", domain.lower()).strip("-") or "domain"
        names.append(f"{kind}-{slug}" if f"{kind}-{slug}" not in names else f"{kind}-{slug}-{i}")
    return [make(data, domain, name=name) for domain, name in zip(data.domains, names, strict=True)]


def _draw(figures: list[Figure | None], draw: Callable[[Figure], Drawn]) -> list[Drawn]:
    return [draw(figure) for figure in figures if figure is not None]


def _render(
    data: RunData, verdicts: list[Verdict], rated: list[tuple[StudyView, Drawn]], **figures: list[Drawn]
) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = style_sheet(), (TEMPLATES / "report.js").read_text()
    return environment.get_template("report.html").render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        facts=_facts(data),
        content={key: name for key, name in CONTENT.items() if rated or key != "studies"},
        rated=rated,
        sentences=finding(data),
        verdicts=verdicts if len(verdicts) > 2 else [],
        run=data,
        results=results(data),
        comparisons=comparisons(data),
        ledger=ledger(data),
        definitions=definitions(data),
        excluded=flat("excluded", "What was left out", data.excluded),
        corpora=flat("corpora", "Corpora", data.manifests),
        provenance=flat("provenance", "Provenance", data.provenance),
        **figures,
    )


def style_sheet() -> str:
    """The page's style: the written sheet, the methods' colours, and the dark values of the figures' colours."""
    written = (TEMPLATES / "report.css").read_text()
    swatches = "".join(f".swatch-{look.slot}{{background:{look.colour}}}\n" for look in LOOKS)
    rules = [f'svg.figure [fill="{light}"]{{fill:{dark}}}' for light, dark in DARK.items()]
    rules += [f'svg.figure [stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items()]
    rules += [f".swatch-{look.slot}{{background:{DARK[look.colour]}}}" for look in LOOKS]
    preferred = "\n".join(f':root:not([data-theme="light"]) {rule}' for rule in rules)
    chosen = "\n".join(f':root[data-theme="dark"] {rule}' for rule in rules)
    preferred = f"@media screen and (prefers-color-scheme:dark){{\n{preferred}\n}}\n"
    return f"{written}{swatches}{preferred}@media screen{{\n{chosen}\n}}\n"


def _hash(text: str) -> str:
    """The content security policy's name for an inline element."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _seeds(data: RunData) -> str:
    counts = seeds_by_method(data).values()
    if not counts or min(counts) == max(counts):
        return plural(max(counts, default=1), "seed")
    return f"{min(counts)} to {max(counts)} seeds"


def _facts(data: RunData) -> Facts:
    settings = parse_toml(data.experiment, where=str(data.folder / "experiment.toml"))
    lm = settings.get("lm", {})
    lm = lm if isinstance(lm, dict) else {"model": lm, "hook_point": settings.get("hook_point")}
    on = listing(list(data.domains)) if 0 < len(data.domains) <= 3 else plural(len(data.domains), "domain")
    starts = data.provenance.get("starts") or [{}]
    parts = [
        lm.get("model"),
        lm.get("hook_point"),
        _seeds(data),
        f"fovea {data.provenance['fovea']}" if "fovea" in data.provenance else None,
        starts[0].get("time_utc"),
    ]
    return Facts(
        title=f"Domain SAEs compared on {on}",
        subtitle=" \u00b7 ".join(str(part) for part in parts if part),
        command=str(starts[0].get("command") or data.provenance.get("command") or ""),
        commit=str(data.provenance.get("commit") or "unknown"),
    )
