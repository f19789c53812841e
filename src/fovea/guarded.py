"""How a verb of the command line ends: the user's mistakes as one message, interruptions as one word.

Exit codes: 0 done, 2 the user's mistake, 3 another rank was lost, 130 interrupted; the last two are resumable.
"""

import functools
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import NoReturn, ParamSpec

import typer
from rich.console import Console

from fovea.errors import FoveaError, RankError

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """`command` with the user's mistakes as one message and exit code 2, and interruptions as 130."""

    @functools.wraps(command)
    def careful(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except RankError as error:
            _stop(str(error), 3)
        except FoveaError as error:
            _stop(str(error), 2)
        except OSError as error:
            _stop(
                f"cannot use {error.filename or 'a file'}: {error.strerror or error}; put that right and run the "
                "command again, with --resume if it had begun a run",
                2,
            )
        except KeyboardInterrupt as stop:
            if isinstance(
                stop.__context__, RankError
            ):  # torchrun stops the ranks that are left while they find out why
                _stop(str(stop.__context__), 3)
            _stop("interrupted; nothing finished is lost: run the same command with --resume to continue", 130)

    return careful


def _stop(message: str, code: int) -> NoReturn:
    with suppress(KeyboardInterrupt), _signals_held():
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"fovea: {message}", markup=False)
    raise typer.Exit(code)


@contextmanager
def _signals_held() -> Generator[None]:
    """Signals that would cut a message short come after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
