"""Nothing that a rater's browser receives separates the methods, apart from the texts that are rated.

Two arms that differ in width, scale, rarity and even in the length of their texts, more than 400 items; every response
is gathered as it leaves the app. A classifier that is given all that is not text must do no better than chance, and
must find the methods as soon as the padding is taken away.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from starlette.types import ASGIApp, Message

from fovea.app.desks import STEP
from fovea.app.security import CSRF_HEADER
from fovea.features.read import Card, Evidence, Example, Group, Piece
from fovea.rating.study import Study
from tests.app.conftest import BASE
from tests.app.raters import AT, app_of, copy_of
from tests.conftest import run_async
from tests.rating.made_study import WORDS, MadeSource, made

N_SHUFFLES, N_DEVIATIONS = 40, 5
"Chance is what the same classifier does on shuffled arms: so many times, and so far from their mean is found out."
KEYS = {
    "item", "id", "stage", "draft", "seen", "answer", "panel", "subject", "explanation", "groups", "name", "examples",
    "peak", "pieces", "specificity", "cannot_tell", "nice", "note", "skip_reason", "guess", "is_done", "phase",
    "n_done", "n_items", "n_skipped", "can_undo", "rater", "is_over", "question", "points", "writes_explanation",
    "has_practice", "guesses", "order", "answers", "words", "has_note", "feedback", "csrf",
    "has_feedback",
}  # fmt: skip
"All that an answer may call something; none of these is a number of the feature, but for shades and places of peaks."


class LongTexts(MadeSource):
    """As if one method liked long words: that is seen in the texts, which are rated, and must be seen nowhere else."""

    def card(self, job: str, latent: int) -> Card:
        rng = np.random.default_rng([latent, len(job)])
        ends = ("xyz", "") if "ssae" in job else ("", "")
        texts = []
        for role, n_fired in zip(("domain", "general"), self.fired(job, latent), strict=True):
            words = [f" {WORDS[i]}{ends[i % 2]}{rng.integers(99)}" for i in rng.integers(len(WORDS), size=27)]
            top = self.scales[job] * (1 + latent)
            levels = [top if i % 9 == 4 else top * rng.random() * (i % 3) / 4 for i in range(27)]
            pieces = [Piece(word, 7, level) for word, level in zip(words, levels, strict=True)]
            examples = tuple(Example(tuple(pieces[i : i + 9]), 4, f"doc{i}", i, 1) for i in (0, 9, 18) if n_fired)
            group = Group("top", 0.0, 0.0, examples)
            texts.append(Evidence(role, role, "heldout", n_fired, 100_000, 40, top, (n_fired,), (group,)))
        return Card(job, latent, "m", self.domain_of[job], tuple(texts), (), (), (), (), None, 0.5, 0.5)


class Seen(NamedTuple):
    """One response as a browser gets it."""

    what: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    seconds: float


class Gathered(NamedTuple):
    """What one rater's browser got over a whole study, and the truth."""

    items: list[Seen]
    "In the rater's order."
    others: list[Seen]
    arms: list[str]
    study: Study


class Wire:
    """A browser that keeps the raw messages: what leaves the app is what it sees."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.cookie, self.csrf = app, "", ""

    async def ask(self, what: str, body: dict[str, Any] | None = None) -> Seen:
        path, _, query = what.partition("?")
        headers = {"host": BASE.removeprefix("http://"), "origin": BASE, "cookie": self.cookie, CSRF_HEADER: self.csrf}
        headers |= {} if body is None else {"content-type": "application/json"}
        scope = {
            "type": "http",
            "method": "GET" if body is None else "POST",
            "path": f"{AT}/{path}",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        sent: list[Any] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        began = time.perf_counter()
        await self.app(scope, receive, send)
        took = time.perf_counter() - began
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Seen(path, sent[0]["status"], sent[0]["headers"], content, took)


async def gather(run: Path, token: str) -> tuple[list[Seen], list[Seen]]:
    """Everything up to the guesses: each item, a step on some, and all other answers in between."""
    wire = Wire(app_of(run))
    ask = wire.ask
    others = [await ask("session"), await ask("session", {"token": token})]
    wire.cookie = dict(others[-1].headers)[b"set-cookie"].decode().partition(";")[0]
    others.append(await ask("session"))
    wire.csrf = json.loads(others[-1].body)["csrf"]
    others += [await ask("answers?start=0"), await ask("state")]
    items = []
    for n, identity in enumerate(json.loads(others[-1].body)["order"]):
        items.append(await ask(f"item?id={identity}"))
        step = {"kind": "rate", "key": f"k{n}", "item": identity}
        if n % 4 == 0:
            others.append(await ask("event", step | {"cannot_tell": True}))
        elif n % 40 == 1:
            others += [await ask("event", step), await ask("undo", {"key": f"u{n}"}), await ask("state")]
            others += [await ask("item"), await ask(f"answers?start={n}"), await ask("item?id=0")]
    return items, others


@pytest.fixture(scope="module")
def gathered(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gathered]:
    folder = copy_of(run, tmp_path_factory.mktemp("leaks") / "run")
    shown = {"n_strongest": 2, "n_spread": 1, "tokens_around": 4}
    size = {"features_per_arm": 109, "n_practice": 0, "n_guesses": 4, "shown": shown}
    study = made(folder, source=LongTexts(n=140), explanation="none", **size)
    items, others = run_async(gather(folder, study.tokens()["ann"]))
    yield Gathered(items, others, arms_of(study), study)
    study.close()


def arms_of(study: Study) -> list[str]:
    """The method of each item, in the rater's order."""
    sealed = study.sealed()
    items = sorted((i for i in study.store.items(1) if i.phase == "rating"), key=lambda item: item.position)
    return [sealed.features[sealed.evidence[item.evidence]["feature"]]["arm"] for item in items]


def test_every_answer_has_one_size_and_one_set_of_headers(gathered: Gathered) -> None:
    assert len(gathered.items) >= 400
    everything = gathered.items + gathered.others
    assert {len(seen.body) for seen in everything} == {STEP}
    headers = {tuple(header for header in seen.headers if header[0] != b"set-cookie") for seen in everything}
    assert len(headers) == 1
    names = {name for name, _ in headers.pop()}
    assert not names & {b"etag", b"last-modified", b"date", b"server", b"server-timing", b"age", b"expires"}
    assert {seen.status for seen in gathered.items} == {200}
    assert {seen.status for seen in gathered.others} == {200, 401, 409}


def test_no_answer_holds_what_is_sealed(gathered: Gathered) -> None:
    sealed = gathered.study.sealed()
    words = {feature["job"] for feature in sealed.features} | {"ssae", "direct", sealed.salt, "seq", "bob"}
    words |= {gathered.study.store.facts["commitment"]}
    numbers = set[float]()
    for seen in gathered.items + gathered.others:
        body = seen.body.decode().rstrip()
        assert not [word for word in words if word in body], seen.what
        assert not sealed.evidence.keys() & set(re.findall("[0-9a-f]{16}", body)), seen.what
        check(json.loads(seen.body), numbers, is_order=False)
    places = {float(shade) for shade in range(11)} | {float(count) for count in range(len(gathered.items) + 1)}
    assert numbers <= places, "shades, places of peaks and the rater's own progress; 50 to 200 firings would be seen"


def check(value: Any, numbers: set[float], *, is_order: bool) -> None:
    """Only known names; collects the numbers, each of which is a whole one and, inside an item, at most 10."""
    if isinstance(value, dict):
        assert set(value) <= KEYS | {"error"}
        for key, each in value.items():
            check(each, numbers, is_order=is_order or key == "item")
    elif isinstance(value, list):
        for each in value:
            check(each, numbers, is_order=is_order)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        assert isinstance(value, int)
        assert not is_order or 0 <= value <= 10
        numbers.add(float(value))


def test_every_item_has_as_much_of_everything(gathered: Gathered) -> None:
    shapes = set()
    for seen in gathered.items:
        item = json.loads(seen.body)["item"]
        sizes = tuple(tuple(len(example["pieces"]) for example in group["examples"]) for group in item["groups"])
        shades = {shade for group in item["groups"] for e in group["examples"] for _, shade in e["pieces"]}
        assert max(shades) == 10
        shapes.add((sizes, tuple(group["name"] for group in item["groups"]), tuple(sorted(item))))
    assert len(shapes) == 1


def test_a_classifier_of_all_but_the_texts_does_no_better_than_chance(gathered: Gathered) -> None:
    features = np.array([traits(seen, n, len(seen.body)) for n, seen in enumerate(gathered.items)])
    arms = np.array(gathered.arms) == "ssae"
    bound = found_out(features, arms)
    assert 0.55 < bound / (2 * min(arms.sum(), (~arms).sum())) < 0.75, "a bound that can be passed, and failed"
    assert guesses(features, arms) < bound
    for each in range(features.shape[1]):
        assert guesses(features[:, [each]], arms) < bound, f"trait {each} alone"


def test_the_classifier_finds_the_methods_without_the_padding(gathered: Gathered) -> None:
    arms = np.array(gathered.arms) == "ssae"
    bare = np.array([traits(seen, n, len(seen.body.rstrip())) for n, seen in enumerate(gathered.items)])
    assert guesses(bare, arms) > found_out(bare, arms), "the test could not find a leak in size"
    slow = np.array([traits(seen, n, len(seen.body)) for n, seen in enumerate(gathered.items)])
    slow[:, 2] += arms * 2 * slow[:, 2].std()
    assert guesses(slow, arms) > found_out(slow, arms), "nor one in time"


def traits(seen: Seen, position: int, size: int) -> list[float]:
    """What is known of a response without reading its texts."""
    item = json.loads(seen.body)["item"]
    examples = [example for group in item["groups"] for example in group["examples"]]
    header_bytes = sum(len(name) + len(value) for name, value in seen.headers)
    counts = [size, header_bytes, np.log(seen.seconds), position, position % 2, len(item["groups"]), len(examples)]
    peaks = [example["peak"] for example in examples]
    characters = [int(digit, 16) for digit in item["id"] + item["seen"]]
    return [float(x) for x in (*counts, sum(len(e["pieces"]) for e in examples), *peaks, *characters)]


def guesses(features: np.ndarray, arms: np.ndarray, *, n_folds: int = 10) -> int:
    """Cross-validated logistic regression: how many of equally many items of each arm it gets right."""
    rng = np.random.default_rng(0)
    n_each = min(arms.sum(), (~arms).sum())
    chosen = np.concatenate([rng.permutation(np.flatnonzero(arms == arm))[:n_each] for arm in (True, False)])
    chosen = rng.permutation(chosen)
    x, y = features[chosen], arms[chosen].astype(float)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    x = np.column_stack([x, np.ones(len(x))])
    folds = np.arange(len(x)) % n_folds
    right = 0
    for fold in range(n_folds):
        weights = fitted(x[folds != fold], y[folds != fold])
        right += int(((x[folds == fold] @ weights > 0) == y[folds == fold]).sum())
    return right


def fitted(x: np.ndarray, y: np.ndarray, *, ridge: float = 1.0) -> np.ndarray:
    """Weights of a logistic regression, by Newton's steps."""
    weights = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(weights))
        weights += np.linalg.solve(hessian, x.T @ (y - p) - ridge * weights)
    return weights


def found_out(features: np.ndarray, arms: np.ndarray) -> float:
    """So many right are not luck: cross-validation varies more than tosses of a coin, so shuffled arms say how much."""
    rng = np.random.default_rng(1)
    lucky = [guesses(features, rng.permutation(arms)) for _ in range(N_SHUFFLES)]
    return float(np.mean(lucky) + N_DEVIATIONS * np.std(lucky))
