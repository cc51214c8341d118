"""Connections between processes in memory; some break, and lose what is under way.

`Wires.open` stands in for `trio.open_tcp_stream`, so everything of hs.repl.calls runs. Only the
HTTP upgrade at the owner is done here, as hs.apis.replication does it.
"""

import random
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from hs.repl.calls.endpoint import RpcEndpoint
from tests.simulation.determinism import Trace
from tests.worker_simulation.bus import Bus
from tests.worker_simulation.scheduling import OWNER

UPGRADED: Final = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: hs-calls\r\n\r\n"
REDIS_PORT: Final = 6379
REFUSED: Final = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"


@attrs.define
class WireFaults:
    """The shares of writes with a fault, and the longest delay of bytes."""

    breaks: float = 0.0
    delay_s: float = 0.0


@attrs.define(eq=False)
class Wires:
    """The connections of the processes of one server; `locate` finds the living one of a name."""

    chance: random.Random
    trace: Trace
    bus: Bus
    locate: Callable[[str], Any]
    faults: WireFaults = attrs.Factory(WireFaults)
    _ends: list["WireEnd"] = attrs.Factory(list)

    def cut_all(self, life: Any) -> None:
        """Break all connections that others have opened to a process."""
        for end in self._ends:
            if end.peer.life is life:
                end.cut()

    async def open(self, host: str, port: int) -> trio.abc.Stream:
        """Connect to Redis, or a process by its name; in place of `trio.open_tcp_stream`."""
        await trio.lowlevel.checkpoint()
        caller = OWNER.get()
        if port == REDIS_PORT:
            return self.bus.connect(caller)
        called = self.locate(host)
        if called is None or caller.is_dead:
            raise OSError("connection refused")
        here, there = WireEnd(self, caller), WireEnd(self, called)
        here.peer, there.peer = there, here
        self._ends.append(here)
        called.start_soon(_serve, called, there)
        return here


@attrs.define(eq=False)
class WireEnd(trio.abc.Stream):
    """One end of a connection."""

    _wires: Wires
    life: Any
    peer: "WireEnd" = attrs.field(init=False)
    _received: bytearray = attrs.Factory(bytearray)
    _wake: trio.Event = attrs.Factory(trio.Event)
    _is_broken: bool = False
    _free_at: float = 0.0

    async def send_all(self, data: Any) -> None:
        """Send bytes, or break."""
        await trio.lowlevel.checkpoint()
        self._check()
        wires = self._wires
        if wires.chance.random() < wires.faults.breaks:
            wires.trace.note("broken", self.life.name, self.peer.life.name)
            self.cut()
            raise trio.BrokenResourceError("the connection broke")
        delay_s = wires.faults.delay_s
        if delay_s:
            await trio.sleep(round(wires.chance.random() * delay_s, 4))
            self._check()
        self.peer._put(bytes(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes, or b"" at the end."""
        await trio.lowlevel.checkpoint()
        while not self._received:
            if self._is_broken or self.life.is_dead:
                return b""
            await self._wake.wait()
            self._wake = trio.Event()
        received = bytes(self._received)
        self._received.clear()
        return received

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close both ends."""
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Break the connection; what was received and not read is still there."""
        for end in (self, self.peer):
            end._is_broken = True
            end._wake.set()

    def _check(self) -> None:
        if self._is_broken or self.life.is_dead:
            raise trio.BrokenResourceError("the connection broke")

    def _put(self, data: bytes) -> None:
        self._received += data
        self._wake.set()


@attrs.frozen(eq=False)
class _ServedBytes:
    """The ByteStream of one end, after bytes that were read already."""

    _end: WireEnd
    _first: list[bytes]

    async def read(self) -> bytes:
        return self._first.pop() if self._first else await self._end.receive_some()

    async def write(self, payload: bytes) -> None:
        await self._end.send_all(payload)


async def _serve(called: Any, end: WireEnd) -> None:
    """Answer the request to switch the protocol, and serve the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = await end.receive_some()
        if not more:
            return
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    endpoint: RpcEndpoint = called.endpoint
    try:
        if not endpoint.admits(headers[b"authorization"].decode()):
            await end.send_all(REFUSED)
            return
        await end.send_all(UPGRADED)
        stream = _ServedBytes(end, [rest] if rest else [])
        await endpoint.serve(headers[b"x-hs-caller"].decode(), stream, called.draining)
    except trio.BrokenResourceError:
        pass
    finally:
        end.cut()
