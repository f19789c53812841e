"""The web app of a run folder and the process that serves it.

fovea serve RUN -> build: Explorer + routes + Shield -> uvicorn on 127.0.0.1
link: http://127.0.0.1:PORT/#t=TOKEN      the fragment never leaves the browser; /api/session trades it for a cookie
"""

import ipaddress
import secrets
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fovea.app.assets import asset_routes
from fovea.app.calls import Reply, failure, parse, protected, respond
from fovea.app.desks import Desk, Desks, OneDesk
from fovea.app.explorer import Explorer
from fovea.app.rater import PAGES as RATER_PAGES
from fovea.app.rater import rater_routes
from fovea.app.security import Sessions, Shield, same
from fovea.errors import ConfigError
from fovea.rating.packet import Packet
from fovea.rating.words import links_texts

PAGES = ("/", "/latents/{job}/{latent}", "/compare", "/prompt", "/export")
"Addresses of the explorer: one page that draws itself after the address, and holds no data."


class Place(NamedTuple):
    """Where the app is served."""

    host: str = "127.0.0.1"
    port: int = 8642
    names: tuple[str, ...] = ()
    "Further host names that a browser may use, for a proxy in front."


def build(run: Path, place: Place, token: str) -> Starlette:
    """The app of the run in `run`; whoever has `token` is its owner.

    Raises:
        RunError: the run has no evidence of features, or it is stale.
    """
    explorer = Explorer(run)
    sessions = Sessions(f"fovea-owner-{place.port}", secrets.token_bytes(32))
    desks = Desks(run, f"fovea-rater-{place.port}")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        del app
        explorer.start()
        yield
        explorer.stop()
        desks.close()

    app = Starlette(
        routes=[
            Route("/api/session", _session(sessions, token), methods=["GET", "POST"]),
            *_api(explorer, sessions),
            *rater_routes(desks),
            *asset_routes({**dict.fromkeys(PAGES, "index.html"), **dict.fromkeys(RATER_PAGES, "rate.html")}),
        ],
        middleware=[Middleware(Shield, hosts=allowed_hosts(place))],
        exception_handlers={404: _not_found, 405: _not_found},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def build_packet(packet: Packet, place: Place) -> Starlette:
    """The app of one packet: its rater's pages and nothing else."""
    desk = Desk(packet, f"fovea-rater-{place.port}")
    app = Starlette(
        routes=[*rater_routes(OneDesk(desk)), *asset_routes(dict.fromkeys(RATER_PAGES, "rate.html"))],
        middleware=[Middleware(Shield, hosts=allowed_hosts(place))],
        exception_handlers={404: _not_found, 405: _not_found},
    )
    app.router.redirect_slashes = False
    return app


def _api(explorer: Explorer, sessions: Sessions) -> list[BaseRoute]:
    reads = {
        "/api/run": explorer.run,
        "/api/latents": explorer.latents,
        "/api/position": explorer.position,
        "/api/latents/{job}/{latent}": explorer.latent,
        "/api/latents/{job}/{latent}/context": explorer.context,
        "/api/compare": explorer.compare,
        "/api/latents.csv": explorer.rows_as_csv,
    }
    writes = {
        "/api/marks": explorer.mark,
        "/api/export": explorer.page,
        "/api/prompt": explorer.prompt,
    }
    return [
        *(Route(path, protected(sessions, endpoint)) for path, endpoint in reads.items()),
        *(Route(path, protected(sessions, endpoint), methods=["POST"]) for path, endpoint in writes.items()),
    ]


def _session(sessions: Sessions, token: str) -> Callable[[Request], object]:
    """GET: the CSRF value of the cookie. POST with the token of the link: a cookie."""

    async def serve(request: Request) -> Response:
        if request.method != "POST":
            if sessions.subject(request) is None:
                return failure(401, "not signed in: open the link that `fovea serve` printed")
            return respond(Reply({"csrf": sessions.csrf(request)}))
        try:
            body = parse(await request.body())
        except ConfigError as error:
            return failure(400, str(error))
        given = body.get("token") if isinstance(body, dict) else None
        if not isinstance(given, str) or not same(token, given):
            return failure(401, "that link is not of this start of the server: open the one that it printed last")
        response = Response(status_code=204)
        sessions.open(response, request, "owner")
        return response

    return serve


async def _not_found(request: Request, error: Exception) -> Response:
    del request, error
    return failure(404, "there is no such address here")


def allowed_hosts(place: Place) -> frozenset[str]:
    """Values of the Host header that are ours; everything else, like a name that was rebound to us, is refused."""
    names = {place.host if ":" not in place.host else f"[{place.host}]"}
    if is_loopback(place.host):
        names |= {"127.0.0.1", "localhost", "[::1]"}
    elif place.host in ("0.0.0.0", "::"):
        names |= {"127.0.0.1", "localhost", socket.gethostname(), socket.getfqdn()}
    with_port = {f"{name}:{place.port}".lower() for name in (*names, *place.names)}
    return frozenset(with_port | {name.lower() for name in place.names})


def is_loopback(host: str) -> bool:
    """Whether a server on `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Say = Callable[[str], object]


def serve(run: Path, place: Place, *, is_remote_allowed: bool, say: Say, launch: Say | None = None) -> None:
    """Serve the run until interrupted; `say` prints the owner's and the raters' links, `launch` opens the owner's.

    Raises:
        ConfigError: the host can be reached from elsewhere and that was not allowed, or the port is taken.
        RunError: the run has no evidence of features, or it is stale.
    """
    if not is_loopback(place.host) and not is_remote_allowed:
        raise ConfigError(
            f"--host {place.host} can be reached from other machines; add --allow-remote if that is meant, "
            "or leave --host out"
        )
    listener = _listen(place)
    with listener:
        place = place._replace(port=listener.getsockname()[1])
        token = secrets.token_urlsafe(32)
        app = build(run, place, token)
        link = _announce(place, token, say)
        for text in links_texts(run, f"http://{_shown(place)}"):
            say(text)
        if launch is not None:
            launch(link)
        _run(app, listener)


def serve_packet(file: Path, port: int, *, say: Say, launch: Say | None = None) -> None:
    """Serve one rater's packet on this machine alone until interrupted; `say` prints the rater's link.

    Raises:
        ConfigError: the port is taken.
        StudyError: the file is no packet, or was changed.
    """
    packet = Packet(file)
    try:
        place = Place(port=port)
        with _listen(place) as listener:
            place = place._replace(port=listener.getsockname()[1])
            app = build_packet(packet, place)
            link = f"http://{_shown(place)}/rate/{packet.name}/#t={packet.token}"
            say(f"open {link}")
            say(f"each step is in {file} when the page says so; stop with Ctrl-C, go on with the same command")
            say("send the file back when you have locked (or before, to have a copy kept)")
            if launch is not None:
                launch(link)
            _run(app, listener)
    finally:
        packet.close()


def _announce(place: Place, token: str, say: Say) -> str:
    link = f"http://{_shown(place)}/#t={token}"
    say(f"open {link}")
    say("whoever has this link owns the app until it stops (Ctrl-C)")
    if not is_loopback(place.host):
        say("NOTICE: without TLS everybody on the way can read and change what is sent: put a proxy with TLS in front")
    return link


def _shown(place: Place) -> str:
    """Host and port for a link."""
    shown = "127.0.0.1" if place.host in ("0.0.0.0", "::") else place.host
    return f"[{shown}]:{place.port}" if ":" in shown else f"{shown}:{place.port}"


def _listen(place: Place) -> socket.socket:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((place.host, place.port))
        listener.listen(128)  # before the link is printed: who opens it at once waits and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {place.host} port {place.port} ({error}); choose another --port, or 0 for any"
        ) from None
    return listener


def _run(app: Starlette, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=128,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 * 1024,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again after it has closed
        return
