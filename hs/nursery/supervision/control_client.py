"""Commands to a running supervisor, over its control socket."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hs.nursery.supervision.control_socket import SOCKET_NAME, ControlRequest
from hs.nursery.supervision.process_files import ProcessFiles
from hs.nursery.supervision.requests import ProcessSource

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


def ask_configuration(folder: Path) -> ProcessFiles:
    """Return the configuration of the main process, with what the supervisor added to its files.

    Raises: NoSupervisor, also if it is of a release that does not know the request.
    """
    lines = list(ask_supervisor(folder, "configuration"))
    if lines[1:] != ["= 0"]:
        raise NoSupervisor(f"the `hs supervise` with {folder} does not tell its configuration")
    source = msgspec.json.decode(lines[0], type=ProcessSource)
    files = tuple(Path(file) for file in source.files)
    return ProcessFiles(name=source.name, files=files, overlay=source.overlay)
