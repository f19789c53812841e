"""What a reader must not do: write elsewhere, look elsewhere, start a process, talk, unpickle, hang, or eat memory."""

import os
import resource
import signal
import stat
import sys
import sysconfig
from pathlib import Path

MAX_GROWTH_BYTES = 2**30
MAX_SECONDS = 120

_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pickle.", "socket.connect")
_PATHS = {"open": 1, "os.remove": 1, "os.rename": 2, "os.symlink": 2, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1}
"How many of an event's arguments are paths."


class Finding(BaseException):
    """Something that no reader may do; a BaseException, so that no reader can take it for damage."""


class Watch:
    """Stops the process at what is forbidden, while an input is read.

    Args:
        place: The folder in which everything happens.
        outside: A folder beside it, to which hostile links lead; native code that follows them leaves a trace in the
            access times of its files.
    """

    def __init__(self, place: Path, outside: Path) -> None:
        self.place, self.outside, self.is_on = str(place.resolve()), outside, False
        roots = (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), Path(__file__).resolve().parents[2])
        self._readable = tuple({str(Path(root).resolve()) for root in roots} | {"/proc", "/dev/null", "/usr", "/sys"})
        self.before = peak_memory()
        self.reset_traces()
        signal.signal(signal.SIGALRM, _too_long)
        sys.addaudithook(self._hook)

    def __enter__(self) -> None:
        """Watch one input."""
        signal.alarm(MAX_SECONDS)
        self.is_on = True

    def __exit__(self, *_: object) -> None:
        """The input was read, or refused: nothing, if that left no trace."""
        self.is_on = False
        signal.alarm(0)
        for path in self._traces:
            if path.stat().st_atime != 1:
                raise Finding(f"a reader followed a link and read {path}")
        if peak_memory() - self.before > MAX_GROWTH_BYTES:
            raise Finding(f"memory grew by {peak_memory() - self.before:,} bytes")

    def reset_traces(self) -> None:
        """Set the access times of what lies outside far back."""
        self._traces = list(self.outside.iterdir())
        for path in self._traces:
            os.utime(path, (1, 2**31))

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_on:
            return
        if event.startswith(_FORBIDDEN):
            raise Finding(f"a reader did {event} {arguments[:2]!r:.300}")
        for path in arguments[: _PATHS.get(event, 0)]:
            if isinstance(path, str | bytes | os.PathLike):
                self._check(event, os.fsdecode(path), arguments)

    def _check(self, event: str, path: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            raise Finding(f"a reader would wait for ever at the pipe {path}")
        real = os.path.realpath(path) if event == "open" else os.path.join(os.getcwd(), path)
        if real == self.place or real.startswith(self.place + "/"):
            return
        mode, flags = (arguments[1], arguments[2]) if event == "open" else ("w", 0)
        writes = bool(set("wax+") & set(mode)) if isinstance(mode, str) else bool(int(str(flags)) & _WRITING)
        if not writes and real.startswith(self._readable):
            return
        if isinstance(flags, int) and flags & os.O_TMPFILE == os.O_TMPFILE:
            return  # a file without a name
        raise Finding(f"a reader did {event} {path!r:.300} ({'writing' if writes else 'reading'} outside its folder)")


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _too_long(signum: int, frame: object) -> None:
    del signum, frame
    raise Finding(f"a reader took more than {MAX_SECONDS} s")


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
