"""The guard that holds tests, and processes that they start with it, to this machine: no look-up, no connection.

`refuse()` cannot be taken back in its process. Child processes are not reached: they call it themselves.
"""

import ipaddress
import sys
from typing import Any

LOCAL_NAMES = {"localhost", "", None, b"localhost"}


class NetworkError(RuntimeError):
    """Something reached for the network."""


def refuse() -> None:
    """From now on a connection, a datagram or a look-up that leaves this machine raises NetworkError."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise NetworkError(f"{event} to {address}: nothing here may use the network")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_local(arguments[0]):
        raise NetworkError(f"{event} of {arguments[0]!r}: nothing here may use the network")


def _is_local(host: Any) -> bool:
    if host in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
