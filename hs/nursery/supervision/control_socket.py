"""The control socket of the supervisor: `hs restart`, `hs topology` and others talk to it.

A request is a line of JSON; the reply is text, and its last line is `= STATUS`. Only the owner of
the run directory can connect.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from hs.nursery.supervision.managed_process import ProcessGivenUp
from hs.nursery.supervision.supervisor import Supervisor
from hs.settings.errors import EXIT_BAD_CONFIG, SettingsError

SOCKET_NAME: Final = "control.sock"
_MAX_REQUEST: Final = 65536
_MAX_CLIENTS: Final = 8
_REQUEST_S: Final = 5.0

log = logging.getLogger(__name__)


class ControlRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: `status`, `restart` the named processes or all, or `stop`.

    The reply to `configuration` is that of main as a ProcessSource in JSON.
    """

    action: str
    names: list[str] = []


_decode = msgspec.json.Decoder(ControlRequest).decode
Say = Callable[[str], Awaitable[None]]


def open_control_socket(folder: Path) -> socket.socket:
    """Open the socket in the run directory, which the lock of the supervisor protects."""
    path = folder / SOCKET_NAME
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(_MAX_CLIENTS)
    return sock


async def serve_control(sock: socket.socket, supervisor: Supervisor) -> None:
    """Obey the commands that arrive, until cancelled."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await _serve_client(stream, supervisor)
            except (trio.BrokenResourceError, msgspec.DecodeError) as error:
                log.info("a control connection ended: %s", error)

    await trio.serve_listeners(serve, [listener])


async def _serve_client(stream: trio.SocketStream, supervisor: Supervisor) -> None:
    async def say(line: str) -> None:
        await stream.send_all(f"{line}\n".encode())

    line = b""
    with trio.fail_after(_REQUEST_S):
        while not line.endswith(b"\n"):
            part = await stream.receive_some()
            if not part or len(line) > _MAX_REQUEST:
                return
            line += part
    status = await _obey(_decode(line), supervisor, say)
    await say(f"= {status}")


async def _obey(request: ControlRequest, supervisor: Supervisor, say: Say) -> int:
    unknown = set(request.names) - set(supervisor.processes)
    if unknown:
        await say(f"there is no process {', '.join(sorted(unknown))}")
        return EXIT_BAD_CONFIG
    match request.action:
        case "status":
            return await _show_status(supervisor, say)
        case "configuration":
            await say(msgspec.json.encode(supervisor.main_source()).decode())
            return 0
        case "stop":
            supervisor.stop_requested.set()
            await supervisor.stopped.wait()
            return 0
        case "restart":
            try:
                await supervisor.restart(request.names, say)
            except SettingsError as error:
                await say(f"The configuration cannot be used, nothing was restarted:\n{error}")
                return EXIT_BAD_CONFIG
            except ProcessGivenUp as error:
                await say(str(error))
                return 1
            return 0
    await say(f"unknown request {request.action!r}")
    return EXIT_BAD_CONFIG


async def _show_status(supervisor: Supervisor, say: Say) -> int:
    now = trio.current_time()
    for name, process in supervisor.processes.items():
        life = process.life
        text = f"{name:24} {process.state}"
        if life is not None and not life.has_ended:
            text += f", process {life.pid} for {now - life.began_at:.0f} s"
        if process.restarts:
            text += f", {process.restarts} failures"
        if process.given_up:
            text += f": {process.given_up}"
        elif life is not None and life.addresses:
            text += f", {life.addresses}"
        await say(text)
    return 0 if all(process.is_ready for process in supervisor.processes.values()) else 1
