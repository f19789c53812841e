"""Studies for tests: a source of made evidence with planted differences between two arms, and raters that are rules."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from fovea.features.read import Card, Evidence, Example, Group, Piece
from fovea.rating.config import StudyConfig, study_config
from fovea.rating.session import BlindItem, RaterEvent, RaterSession
from fovea.rating.study import Study, create

WORDS = ("cell", "gene", "enzyme", "the", "of", "and", "war", "=1+1", "<script>", "\u202e", "\0", "\ud83e\uddec")
HOSTILE = "</script><img src=x onerror=alert(1)> =cmd|' /C calc'!A0 \u202eevil\u202c \0 \ud800".encode(
    "utf-8", "replace"
).decode()


class MadeSource:
    """Evidence of two arms of different width, scale and rarity: everything that must not show, differs."""

    def __init__(self, *, n: int = 60, scales: tuple[float, float] = (1.0, 50.0), domains: tuple[str, ...] = ("bio",)):
        self.sizes = {}
        self.domain_of = {}
        for domain in domains:
            prefix = f"{domain}-" if len(domains) > 1 else ""
            for job, size in ((f"{prefix}ssae-k16-s0", n), (f"{prefix}direct-k40-s0", 3 * n)):
                self.sizes[job], self.domain_of[job] = size, domain
        self.jobs = tuple(self.sizes)
        self.scales = {job: scales["direct" in job] for job in self.jobs}

    def fired(self, job: str, latent: int) -> tuple[int, int]:
        """Firings on D (every 10th latent is dead, every 10th rare) and on general text (every 4th never)."""
        on_domain = 0 if latent % 10 == 0 else 3 if latent % 10 == 1 else 50 + latent
        return on_domain, 0 if latent % 4 == 2 else (2 if "ssae" in job else 400) + 20

    def table(self, job: str) -> dict[str, Any]:
        return {"latent": np.arange(self.sizes[job])}

    def alive(self, job: str, *, min_firings: int = 1) -> Any:
        return np.array([i for i in range(self.sizes[job]) if self.fired(job, i)[0] >= min_firings])

    def card(self, job: str, latent: int) -> Card:
        texts = (
            evidence_of(latent + 1000 * len(job), role, n_fired=n, top=self.scales[job] * (1 + latent))
            for role, n in zip(("domain", "general"), self.fired(job, latent), strict=True)
        )
        return Card(job, latent, job.split("-")[-3], self.domain_of[job], tuple(texts), (), (), (), (), None, 0.5, 0.5)


@cache
def evidence_of(number: int, role: Any, *, n_fired: int, top: float) -> Evidence:
    """One latent on one corpus; cached, because tests make many equal studies."""
    rng = np.random.default_rng([number, role == "domain"])
    groups = []
    for rank, (low, high) in enumerate(((0.0, 0.0), (0.0, 0.5), (0.5, 1.0))):
        n = min(6, max(n_fired - 6 * rank, 0))
        examples = tuple(_example(rng, number, top / (1 + rank)) for _ in range(n))
        groups.append(Group("top" if not rank else f"rank {low}-{high}", low, high, examples))
    maximum = top if n_fired else None
    return Evidence(role, role, "heldout", n_fired, 100_000, 40, maximum, (n_fired,), tuple(groups))


def _example(rng: np.random.Generator, number: int, top: float) -> Example:
    peak = int(rng.integers(1, 31))
    pieces = [
        Piece(f" {WORDS[i]}{k}", 7, 0.0)
        for i, k in zip(rng.integers(12, size=32), rng.integers(999, size=32), strict=True)
    ]
    pieces[peak] = pieces[peak]._replace(activation=top * rng.uniform(0.8, 1.0))
    pieces[peak - 1] = pieces[peak - 1]._replace(activation=top / 4)
    return Example(tuple(pieces), peak, f"doc{rng.integers(10**9)}", peak, 1 + number % 7)


def config(source: MadeSource, **changes: Any) -> StudyConfig:
    """Two arms, two raters, small."""
    arms = {name: [job for job in source.jobs if f"{name}-" in job] for name in ("ssae", "direct")}
    table: dict[str, Any] = {
        "arm": [{"name": name, "jobs": jobs} for name, jobs in arms.items()],
        "rater": [{"name": "ann"}, {"name": "bob"}],
        "features_per_arm": 20,
        "n_practice": 2,
        "n_guesses": 6,
        "shown": {"n_strongest": 4, "n_spread": 2, "tokens_around": 5},
    }
    return study_config({**table, **changes}, where="test")


def made(folder: Path, name: str = "one", source: MadeSource | None = None, **changes: Any) -> Study:
    """A new study."""
    source = source or MadeSource()
    return create(folder, name, config(source, **changes), source=source)


Rule = Callable[[BlindItem, int], dict[str, Any]]


def always(item: BlindItem, n: int) -> dict[str, Any]:
    """A rater without a mind."""
    del item
    return {"specificity": n % 4}


def work(session: RaterSession, rule: Rule = always, *, n_steps: int | None = None, lock: bool = True) -> int:
    """Rate until done (or so many steps); the number of steps."""
    n = 0
    while n_steps is None or n < n_steps:
        item, key = session.next_item(), uuid4().hex
        if item is None:
            phase = session.progress().phase
            if phase == "locked" or (phase == "closing" and not lock):
                return n
            session.record(RaterEvent(kind="finish" if phase == "review" else "lock", key=key))
        elif item.stage == "explain":
            session.record(RaterEvent(kind="explain", key=key, item=item.id, text=f"{item.panel} {HOSTILE}"))
        elif item.stage == "guess":
            session.record(RaterEvent(kind="guess", key=key, item=item.id, guess=rule(item, n).get("guess", "ssae")))
        else:
            told = {k: v for k, v in rule(item, n).items() if k != "guess"}
            session.record(RaterEvent(kind="rate", key=key, item=item.id, **told))
        n += 1
    return n
