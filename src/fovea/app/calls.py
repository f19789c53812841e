"""Endpoints as plain functions: a Call in, a Reply out, the user's mistakes as json with a status.

protected(sessions, endpoint) is what a route is given: only with the right cookie, and for writes the right CSRF
header, does `endpoint` run, in a thread of its own.
"""

import json
import math
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from fovea.app.security import WRITES, Sessions
from fovea.errors import ConfigError, FoveaError, StudyBusyError, UnknownReferenceError

MAX_DEPTH = 8


class Call(NamedTuple):
    """What an endpoint may know of a request."""

    subject: str
    path: Mapping[str, Any]
    query: QueryParams
    body: Any
    "Parsed json of a write, None for a read."

    def text(self, key: str, most: int) -> str:
        """String `key` of the body, of at most `most` characters.

        Raises:
            ConfigError: absent, no string, too long, or half of a surrogate pair is in it.
        """
        value = self.body.get(key) if isinstance(self.body, dict) else None
        if not isinstance(value, str):
            raise ConfigError(f"{key}: a string is needed")
        if len(value) > most:
            raise ConfigError(f"{key}: {len(value)} characters, at most {most} are allowed; shorten it")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigError(f"{key}: holds half a character (a lone surrogate); remove it")
        return value


class Reply(NamedTuple):
    """What an endpoint answers: a json value, or a file to keep."""

    content: Any
    media_type: str = "application/json"
    filename: str | None = None


Endpoint = Callable[[Call], Reply]


def protected(sessions: Sessions, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """A route's function that runs `endpoint` for those whom `sessions` knows."""

    async def serve(request: Request) -> Response:
        subject = sessions.subject(request)
        if subject is None:
            return failure(401, "not signed in: open the link that was given to you")
        body = None
        if request.method in WRITES:
            if not sessions.may_write(request):
                return failure(403, "the CSRF header is missing or old; reload the page")
            try:
                body = parse(await request.body())
            except ConfigError as error:
                return failure(400, str(error))
        call = Call(subject, request.path_params, request.query_params, body)
        return await run_in_threadpool(_answer, endpoint, call)

    return serve


def _answer(endpoint: Endpoint, call: Call) -> Response:
    try:
        reply = endpoint(call)
    except UnknownReferenceError as error:
        return failure(404, str(error))
    except ConfigError as error:
        return failure(400, str(error))
    except ValidationError as error:
        return failure(422, _sentence(error))
    except StudyBusyError as error:
        return failure(503, str(error))
    except FoveaError as error:
        return failure(409, str(error))
    except sqlite3.Error as error:
        return failure(503, f"the disk did not take it ({error}); nothing was recorded, try again")
    return respond(reply)


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong with a request, and where."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the request'}: {first['msg']}"


def respond(reply: Reply) -> Response:
    """The response of a reply; json is ascii, so that lone surrogates survive, and holds no NaN."""
    headers = {}
    if reply.filename is not None:
        headers["content-disposition"] = f'attachment; filename="{reply.filename}"'
    content = reply.content
    if reply.media_type == "application/json":
        content = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(content, media_type=reply.media_type, headers=headers)


def failure(status: int, message: str) -> Response:
    """A json error."""
    return Response(json.dumps({"error": message}), status_code=status, media_type="application/json")


def parse(body: bytes) -> Any:
    """The json value of a request.

    Raises:
        ConfigError: not json, nested too deeply, or with NaN.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ConfigError("the request is not valid json") from None
    if _depth(value) > MAX_DEPTH:
        raise ConfigError(f"the request nests more than {MAX_DEPTH} levels deep")
    return value


def number(value: float | None) -> float | None:
    """`value` as json can say it: NaN and infinity are null."""
    return None if value is None or not math.isfinite(value) else float(value)


def _refuse(name: str) -> None:
    raise ValueError(name)


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        part, depth = stack.pop()
        deepest = max(deepest, depth)
        children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        stack += [(child, depth + 1) for child in children]
    return deepest
