"""The owner's end of connections from other processes."""

import hmac
import logging
import math
from collections.abc import Sequence

import attrs
import msgspec
import trio

from hs.repl.calls.client import SECRET_MISMATCH
from hs.repl.calls.frames import Frame, FrameKind
from hs.repl.calls.link import ByteStream, Link, LinkClosed
from hs.repl.calls.reply import RpcCall
from hs.repl.calls.server import RpcServer, encode

LOG_EVERY_S = 60.0

log = logging.getLogger(__name__)
_decode_call = msgspec.msgpack.Decoder(RpcCall).decode


@attrs.define(eq=False)
class RpcEndpoint:
    """What other processes connect to on the replication listener."""

    _server: RpcServer
    _secret: str
    _logged_at: float = -math.inf

    def admits(self, authorization: str) -> bool:
        """Return whether a caller has the shared secret; log now and then that one has not."""
        # An empty secret would admit every caller.
        expected = f"Bearer {self._secret}".encode()
        if self._secret and hmac.compare_digest(authorization.encode(), expected):
            return True
        self._log_rejection()
        return False

    async def serve(self, caller: str, stream: ByteStream, stopping: trio.Event) -> None:
        """Execute the calls that arrive on a connection, until it closes or `stopping` is set.

        Calls that have arrived by then are answered. `caller` is a name that no other process has.
        """
        served = _ServedLink(self._server, caller, stream)
        await served.run(stopping)

    def _log_rejection(self) -> None:
        # Limited, because anybody who reaches the port can cause this line.
        now = trio.current_time()
        if now >= self._logged_at + LOG_EVERY_S:
            self._logged_at = now
            log.error("rejecting the calls of another process: %s", SECRET_MISMATCH)


@attrs.define(eq=False)
class _ServedLink:
    _server: RpcServer
    _caller: str
    _stream: ByteStream
    _link: Link = attrs.field(init=False)
    _running: int = attrs.field(default=0, init=False)
    _is_stopping: bool = attrs.field(default=False, init=False)
    _idle: trio.Event = attrs.field(factory=trio.Event, init=False)
    _announced: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._link = Link(self._stream, self._announce)

    async def run(self, stopping: trio.Event) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._link.write)
                nursery.start_soon(self._link.read, self._on_frames)
                await stopping.wait()
                self._is_stopping = True
                while self._running:
                    self._idle = trio.Event()
                    await self._idle.wait()
                self._link.send(FrameKind.END, 0, b"")
                await self._link.wait_written()
                nursery.cancel_scope.cancel()
        except* LinkClosed as closed:
            log.debug("connection from %s: %s", self._caller, closed.exceptions[0])

    def _on_frames(self, frames: Sequence[Frame]) -> None:
        for kind, message_id, payload in frames:
            if kind == FrameKind.CALL:
                if not self._is_stopping:  # else END tells the caller that it was not begun
                    self._begin(message_id, payload)
            elif kind == FrameKind.PING:
                self._link.send(FrameKind.PONG, message_id, b"")

    def _begin(self, message_id: int, payload: bytes) -> None:
        try:
            call = _decode_call(payload)
        except msgspec.DecodeError as error:
            raise LinkClosed(f"a call cannot be decoded: {error}") from error

        def deliver(reply: bytes) -> None:
            self._running -= 1
            if not self._running:
                self._idle.set()
            self._link.send(FrameKind.REPLY, message_id, reply)

        self._running += 1
        self._server.begin((self._caller, message_id), call, deliver)

    def _announce(self) -> None:
        # With every write, so that the positions cover what the calls replied to in it have done.
        changed = [
            (stream, writer, position)
            for (stream, writer), position in self._server.positions().items()
            if self._announced.get((stream, writer)) != position
        ]
        if changed:
            for stream, writer, position in changed:
                self._announced[stream, writer] = position
            self._link.outbox.add_first(FrameKind.POSITIONS, encode(changed))
