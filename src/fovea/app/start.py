"""The way in: is what the app needs installed? Only then is it imported."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from fovea.errors import ConfigError

NEEDS = ("starlette", "uvicorn", "jinja2")


def serve_run(
    run: Path,
    *,
    address: tuple[str, int],
    names: tuple[str, ...] = (),
    is_remote_allowed: bool = False,
    say: Callable[[str], object],
    launch: Callable[[str], object] | None = None,
) -> None:
    """Serve the explorer and the studies of a run until interrupted.

    Args:
        run: The run folder.
        address: Host and port to listen on; port 0 takes a free one.
        names: Host names of a proxy in front.
        is_remote_allowed: Permit a host that other machines can reach.
        say: Prints a line.
        launch: Opens the link, if wanted.

    Raises:
        ConfigError: the extra `app` is not installed, the host is not allowed or the port is taken.
        RunError: the run has no evidence of features, or it is stale.
    """
    _check_needs()
    from fovea.app.server import Place, serve

    place = Place(address[0], address[1], names)
    serve(run, place, is_remote_allowed=is_remote_allowed, say=say, launch=launch)


def rate_packet(
    file: Path, port: int, *, say: Callable[[str], object], launch: Callable[[str], object] | None = None
) -> None:
    """Serve one rater's packet on this machine until interrupted.

    Raises:
        ConfigError: the extra `app` is not installed, or the port is taken.
        StudyError: the file is no packet, or was changed.
    """
    _check_needs()
    from fovea.app.server import serve_packet

    serve_packet(file, port, say=say, launch=launch)


def _check_needs() -> None:
    for module in NEEDS:
        if find_spec(module) is None:
            raise ConfigError(f"the app needs {module}, which is not installed: pip install 'fovea-sae[app]'")
