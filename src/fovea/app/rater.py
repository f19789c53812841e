"""The pages and answers of raters, under /rate: mounted beside the explorer, with cookies and rights of their own."""

from pathlib import Path

from starlette.routing import BaseRoute


def rater_routes(run: Path, cookie: str) -> list[BaseRoute]:
    """Routes below /rate for the studies of a run.

    Args:
        run: The run folder; its studies are looked up there and nowhere else.
        cookie: Name for the raters' cookie (it differs from the owner's and between ports).
    """
    del run, cookie
    return []
