"""What every request passes before code of a page runs, and who may do what.

    request -> Shield: Host known? method, size, time? write: Origin own, json?  -> route
            -> protected: whose cookie? write: CSRF header of that cookie?       -> endpoint(Call) -> Reply
    response <- Shield: content security policy, no sniffing, no referrer, no caching

A capability is a cookie's subject, signed with a key: the owner's key is new at every start, a rater's belongs to the
study. Cookies of all ports of a host are one jar, so a cookie's name carries the port; a rater's has a path of its own.
"""

import asyncio
import hashlib
import hmac
import secrets
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSRF_HEADER = "x-fovea-csrf"
WRITES = ("POST",)
READS = ("GET", "HEAD")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Limits(NamedTuple):
    """What a request may cost."""

    body_bytes: int = 64 * 1024
    body_seconds: float = 10.0
    seconds: float = 120.0


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    reason: str


class Shield:
    """ASGI middleware around everything: refuses what is not ours, bounds the rest, sets every answer's headers."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], limits: Limits | None = None) -> None:
        self.app, self.hosts, self.limits = app, hosts, limits or Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded = _Guarded(send)
        refusal = self._refusal(scope)
        if refusal is None:
            refusal = await self._serve(scope, receive, guarded)
        if refusal is not None and not guarded.started:
            response = JSONResponse({"error": refusal.reason}, status_code=refusal.status)
            await response(scope, _nothing, guarded)

    async def _serve(self, scope: Scope, receive: Receive, send: "_Guarded") -> Refusal | None:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                body = await _read(receive, self.limits.body_bytes)
        except TimeoutError:
            return Refusal(408, f"the request did not arrive within {self.limits.body_seconds:g} seconds")
        if body is None:
            return Refusal(413, f"the request is larger than {self.limits.body_bytes} bytes")
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, _Replay(body, receive), send)
        except TimeoutError:
            return Refusal(504, f"no answer within {self.limits.seconds:g} seconds; ask for less")
        except asyncio.CancelledError:  # the server was told to stop and has waited long enough
            return Refusal(503, "the server is stopping")
        return None

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self.hosts or len(headers.getlist("host")) != 1:
            return Refusal(421, "this server does not answer to that host name; open the link that fovea printed")
        if scope["method"] not in READS + WRITES:
            return Refusal(405, f"use one of {', '.join(READS + WRITES)}")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and _is_data(scope["path"]):
            return Refusal(403, "requests from other sites are refused")
        declared = headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared[:12]) > self.limits.body_bytes:
            return Refusal(413, f"the request is larger than {self.limits.body_bytes} bytes")
        if scope["method"] in WRITES:
            return _write_refusal(headers, host)
        return None


def _write_refusal(headers: Headers, host: str) -> Refusal | None:
    if headers.get("origin", "").lower() not in (f"http://{host}", f"https://{host}"):
        return Refusal(403, "writing is possible from the app's own pages only (the Origin header does not fit)")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, "send application/json")
    return None


def _is_data(path: str) -> bool:
    """Whether a path answers with data; pages and their files hold none, so a link from elsewhere may open them."""
    return "/api/" in path


class _Guarded:
    """A `send` that adds the headers and remembers whether the response began."""

    def __init__(self, send: Send) -> None:
        self.send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await self.send(message)


class _Replay:
    """A `receive` that gives the body that was read, then waits for the client as before."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        body, self.body = self.body, None
        if body is None:
            return await self.receive()
        return {"type": "http.request", "body": body, "more_body": False}


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body, None where it is longer than `most` bytes; no more than that is ever held."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class Sessions:
    """Cookies that say who somebody is, signed and without state: subject.nonce.signature.

    Subjects are words of letters, digits, hyphen and underscore. The value of the CSRF header is made from the cookie,
    so a page of another site, which can read neither, cannot write.
    """

    def __init__(self, cookie: str, key: bytes, path: str = "/") -> None:
        self.cookie, self._key, self.path = cookie, key, path

    def open(self, response: Response, request: Request, subject: str) -> None:
        """Set the cookie of `subject`."""
        if not subject.replace("-", "").replace("_", "").isalnum() or not subject.isascii():
            raise AssertionError(f"a subject is a plain word, not {subject!r}")
        value = f"{subject}.{secrets.token_urlsafe(16)}"
        value = f"{value}.{self._sign('cookie', value)}"
        secure = request.headers.get("origin", "").startswith("https:")
        response.set_cookie(self.cookie, value, path=self.path, secure=secure, httponly=True, samesite="strict")

    def subject(self, request: Request) -> str | None:
        """Who the request is from, None without a cookie of ours."""
        value = request.cookies.get(self.cookie, "")
        content, _, signature = value.rpartition(".")
        if not same(self._sign("cookie", content), signature):
            return None
        return content.partition(".")[0]

    def csrf(self, request: Request) -> str:
        """The CSRF value that belongs to the request's cookie."""
        return self._sign("csrf", request.cookies.get(self.cookie, ""))

    def may_write(self, request: Request) -> bool:
        """Whether the request carries the CSRF value of its cookie."""
        return same(self.csrf(request), request.headers.get(CSRF_HEADER, ""))

    def _sign(self, use: str, text: str) -> str:
        return hmac.new(self._key, f"{use}:{text}".encode(errors="replace"), hashlib.sha256).hexdigest()


def same(expected: str, given: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(expected.encode(errors="replace"), given.encode(errors="replace"))
