"""Commands to a running supervisor, over its control socket."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hs.nursery.supervision.control_socket import SOCKET_NAME, ControlRequest

CONNECT_S = 5.0


class NoSupervisor(Exception):
    """No supervisor runs with this run folder."""


def ask_supervisor(folder: Path, action: str, names: Sequence[str] = ()) -> Iterator[str]:
    """Send a request; yield the lines of the reply, and at last `= STATUS`.

    Raises: NoSupervisor.
    """
    request = msgspec.json.encode(ControlRequest(action=action, names=list(names)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_S)
        try:
            sock.connect(str(folder / SOCKET_NAME))
        except OSError as error:
            raise NoSupervisor(f"no `hs supervise` runs with {folder}: {error.strerror}") from None
        sock.settimeout(None)
        sock.sendall(request + b"\n")
        with sock.makefile("r", encoding="utf-8") as reply:
            for line in reply:
                yield line.rstrip("\n")
