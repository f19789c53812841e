"""The files that a browser is given: a fixed set, read once. No name from a browser is ever made into a path."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fovea.app.calls import failure
from fovea.report.palette import CONTROL, DARK, INK, LOOKS

STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


def read_assets() -> dict[str, tuple[bytes, str]]:
    """Name -> bytes and media type of every file in static/, and the sheet of the methods' colours."""
    found = {
        path.name: (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(STATIC.iterdir())
        if path.suffix in _TYPES
    }
    return found | {"palette.css": (palette().encode(), "text/css")}


def asset_routes(pages: dict[str, str]) -> list[BaseRoute]:
    """Routes of /assets/NAME, and of each page: path -> name of the asset that it is."""
    assets = read_assets()

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets:
            return failure(404, "no such file")
        content, media_type = assets[name]
        return Response(content, media_type=media_type)

    def page(name: str) -> BaseRoute:
        content, media_type = assets[pages[name]]

        async def serve(request: Request) -> Response:
            del request
            return Response(content, media_type=media_type)

        return Route(name, serve)

    return [Route("/assets/{name}", asset), *(page(path) for path in pages)]


def palette() -> str:
    """The methods' swatches and strokes, light and dark, as the report has them: slots 0 to 6, 7 is g, 8 a control."""
    colours = {look.slot: look.colour for look in LOOKS} | {7: INK, 8: CONTROL}
    light = "".join(f"--method-{slot}:{colour};" for slot, colour in colours.items())
    dark = "".join(f"--method-{slot}:{DARK[colour]};" for slot, colour in colours.items())
    rules = "".join(
        f".swatch-{slot}{{background:var(--method-{slot})}}.stroke-{slot}{{stroke:var(--method-{slot})}}"
        f".fill-{slot}{{fill:var(--method-{slot})}}\n"
        for slot in colours
    )
    preferred = f'@media (prefers-color-scheme:dark){{:root:not([data-theme="light"]){{{dark}}}}}'
    return f':root{{{light}}}\n{preferred}\n:root[data-theme="dark"]{{{dark}}}\n{rules}'
