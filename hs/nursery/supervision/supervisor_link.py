"""The connection of a forked process to its supervisor.

The process sends `standby` once it is built and waits for its turn, `ready` with its addresses,
`stopping`, and `alive` every few seconds. The supervisor sends `go`. When the supervisor is gone,
the connection closes, and the process stops.
"""

import socket
from typing import Final

import attrs
import trio

from hs.apis.web.inherited_sockets import InheritedSockets
from hs.nursery.service_manager import StopRequest

STANDBY: Final = "standby"
READY: Final = "ready"
STOPPING: Final = "stopping"
ALIVE: Final = "alive"
GO: Final = b"go\n"
ALIVE_EVERY_S: Final = 5.0


@attrs.frozen(eq=False)
class SupervisorLink:
    """The end of the connection in the process."""

    _sock: socket.socket
    sockets: InheritedSockets
    _turn: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def run(
        self, stop: StopRequest, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive from the supervisor and report life, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_life)
            task_status.started()
            await self._receive(stop)

    async def _receive(self, stop: StopRequest) -> None:
        sock = trio.socket.from_stdlib_socket(self._sock)
        received = b""
        while True:
            try:
                part = await sock.recv(1024)
            except OSError:
                part = b""
            if not part:
                stop()
                return
            received += part
            if GO in received:
                self._turn.set()

    async def _report_life(self) -> None:
        while True:
            await trio.sleep(ALIVE_EVERY_S)
            self._send(ALIVE)

    async def wait_for_turn(self) -> None:
        """Report that the process is built, and wait until it may take its name."""
        self._send(STANDBY)
        await self._turn.wait()

    def announce_ready(self, addresses: str) -> None:
        """Report that the process serves clients."""
        self._send(f"{READY} {addresses}")

    def announce_stop(self) -> None:
        """Report that the process has begun to stop."""
        self._send(STOPPING)

    def _send(self, line: str) -> None:
        try:
            self._sock.send(f"{line}\n".encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return  # the supervisor is gone, or does not read
