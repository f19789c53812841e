"""The pages and answers of raters, under /rate: mounted beside the explorer, with cookies and rights of their own.

    http://HOST:PORT/rate/NAME/#t=TOKEN --POST session--> cookie of one study and rater, path /rate/NAME
    request -> Desks.find(NAME) -> protected: that study's cookie? CSRF? -> endpoint(RaterSession, Call) -> padded

Every answer of a study has one size and one set of headers. The same code runs for every item, and it knows no method:
what is opened here never holds the mapping. Nothing of the explorer can be reached with a rater's cookie, nor the
reverse: names, keys and paths of the cookies differ.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fovea.app.calls import Call, Reply, failure, parse, protected, respond
from fovea.app.desks import STEP, Desk, Desks, OneDesk, padded, shown
from fovea.app.payload import cut
from fovea.app.security import WRITES
from fovea.config import Config
from fovea.errors import ConfigError, StudyError
from fovea.rating.session import BlindItem, RaterEvent, RaterSession
from fovea.rating.state import Answer

PAGES = ("/rate/{name}", "/rate/{name}/")
"Addresses of the raters' page, which holds no data and is the same for any name."
N_LISTED = 20
"Answers of one's own on one page of the review."
N_WORDS = 120
"Characters of an explanation or reason in that list."
_NOT_SIGNED_IN = "not signed in: open the link that was given to you"
_NOT_READ = "the study's files cannot be read now; try again"

RaterEndpoint = Callable[[RaterSession, Call], dict[str, Any]]
Served = Callable[[Request], Awaitable[Response]]


def rater_routes(desks: Desks | OneDesk) -> list[BaseRoute]:
    """Routes below /rate for the studies of a run, or for one packet; nothing else can be reached through them."""
    reads: dict[str, RaterEndpoint] = {"state": state, "item": item, "feedback": told, "answers": answers}
    writes: dict[str, RaterEndpoint] = {"event": event, "undo": undo}
    at = "/rate/{name}/api"
    return [
        Route(f"{at}/session", _session(desks), methods=["GET", "POST"]),
        *(Route(f"{at}/{name}", _served(desks, endpoint)) for name, endpoint in reads.items()),
        *(Route(f"{at}/{name}", _served(desks, endpoint), methods=["POST"]) for name, endpoint in writes.items()),
    ]


def _of_study(desks: Desks | OneDesk, serve: Callable[[Request, Desk], Awaitable[Response]]) -> Served:
    """Find the study of the address; give every answer the study's size."""

    async def found(request: Request) -> Response:
        try:
            desk = await run_in_threadpool(desks.find, request.path_params["name"])
        except (OSError, sqlite3.Error, StudyError):
            return padded(failure(503, _NOT_READ), STEP)
        if desk is None:
            return padded(failure(401, _NOT_SIGNED_IN), STEP)
        try:
            return padded(await serve(request, desk), desk.size)
        except sqlite3.Error:
            return padded(failure(503, _NOT_READ), desk.size)

    return found


def _served(desks: Desks | OneDesk, endpoint: RaterEndpoint) -> Served:
    async def serve(request: Request, desk: Desk) -> Response:
        def answer(call: Call) -> Reply:
            return Reply(endpoint(desk.rater(call.subject), call))

        return await protected(desk.sessions, answer)(request)

    return _of_study(desks, serve)


def _session(desks: Desks | OneDesk) -> Served:
    """GET: whose cookie it is, and its CSRF value. POST with the token of a rater's link: a cookie."""

    async def serve(request: Request, desk: Desk) -> Response:
        if request.method not in WRITES:
            subject = desk.sessions.subject(request)
            if subject is None:
                return failure(401, _NOT_SIGNED_IN)
            name = await run_in_threadpool(desk.name, subject)
            return respond(Reply({"csrf": desk.sessions.csrf(request), "rater": name}))
        try:
            body = parse(await request.body())
        except ConfigError as error:
            return failure(400, str(error))
        token = body.get("token") if isinstance(body, dict) else None
        try:
            rater = await run_in_threadpool(desk.study.rater, token if isinstance(token, str) else "")
        except StudyError as error:
            return failure(401, str(error))
        response = respond(Reply({}))
        desk.sessions.open(response, request, desk.subject(rater))
        return response

    return _of_study(desks, serve)


def state(rater: RaterSession, call: Call) -> dict[str, Any]:
    """Where the rater stands and what the study asks; the methods' names in phase guess only."""
    del call
    progress = rater.progress()
    rubric = rater.rubric
    return {
        "rater": rater.name,
        "is_over": rater.is_over(),
        "has_feedback": rater.told() is not None,
        **progress._asdict(),
        "question": rubric.question,
        "points": rubric.points,
        "writes_explanation": rubric.writes_explanation,
        "has_practice": rubric.has_practice,
        "guesses": rubric.guesses if progress.phase == "guess" else [],
        "order": rater.order(),
    }


def item(rater: RaterSession, call: Call) -> dict[str, Any]:
    """The item `id` of the phase, else the one to go on with; null where a step for all items is due."""
    wanted = call.query.get("id")
    found = rater.next_item() if wanted is None else rater.item(wanted)
    return {"item": None if found is None else _item(found), **rater.progress()._asdict()}


def told(rater: RaterSession, call: Call) -> dict[str, Any]:
    """The practice item that was rated last, with its feedback, until the next item is asked for; else nulls."""
    del call
    found = rater.told()
    if found is None:
        return {"item": None, "feedback": None}
    place = {"number": found.number, "n_items": found.n_items}
    return {"item": _item(found.item), "feedback": found.feedback._asdict(), **place}


def _item(found: BlindItem) -> dict[str, Any]:
    groups = [group._asdict() | {"examples": [e._asdict() for e in group.examples]} for group in found.groups]
    body = {"panel": found.panel, "subject": found.subject, "explanation": found.explanation, "groups": groups}
    return {
        "id": found.id,
        "stage": found.stage,
        "draft": found.draft,
        "seen": found.seen,
        "answer": {name: getattr(found.answer, name) for name in ANSWERED},
        **shown(body),
    }


ANSWERED = ("explanation", "specificity", "cannot_tell", "nice", "note", "skip_reason", "guess", "is_done")
"What a page gets of an answer: not the times."


def answers(rater: RaterSession, call: Call) -> dict[str, Any]:
    """`N_LISTED` of the rater's own answers, from number `start` of the phase's order on."""
    start = call.query.get("start", "0")
    if not (start.isascii() and start.isdigit() and len(start) < 7):
        raise ConfigError("start: a number is needed")
    listed = rater.answers()[int(start) : int(start) + N_LISTED]
    return {"answers": [{"id": identity, **_row(answer)} for identity, answer in listed]}


def _row(answer: Answer) -> dict[str, Any]:
    return {
        "words": _start(answer.explanation),
        "skip_reason": None if answer.skip_reason is None else _start(answer.skip_reason),
        "has_note": bool(answer.note),
        **{name: getattr(answer, name) for name in ("specificity", "cannot_tell", "nice", "is_done")},
    }


def _start(text: str | None) -> str:
    return cut(text or "", N_WORDS)


def event(rater: RaterSession, call: Call) -> dict[str, Any]:
    """Record one step; when this answers, it is on the disk. Feedback is of a rated practice item."""
    receipt = rater.record(RaterEvent.model_validate(call.body, strict=True))
    feedback = None if receipt.feedback is None else receipt.feedback._asdict()
    return {"feedback": feedback, **rater.progress()._asdict()}


class UndoRequest(Config):
    """The latest step is taken back, once under its key."""

    key: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")


def undo(rater: RaterSession, call: Call) -> dict[str, Any]:
    """Take back the latest step of the phase; `item` is the one that it was about, null if there was nothing."""
    found = rater.undo(UndoRequest.model_validate(call.body, strict=True).key)
    return {"item": None if found is None else found.id, **rater.progress()._asdict()}
