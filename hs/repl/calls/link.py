"""One open connection between two processes, as both ends use it."""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from hs.repl.calls.frames import BrokenFraming, Frame, FrameKind, FrameParser, Outbox


class ByteStream(Protocol):
    """The bytes of a connection."""

    async def read(self) -> bytes:
        """Wait for bytes and return them; b"" at the end, whatever its reason."""
        ...

    async def write(self, payload: bytes) -> None:
        """Send everything. Raises: trio.BrokenResourceError."""
        ...


class LinkClosed(Exception):
    """The other side closed the connection, or it broke."""


def _nothing() -> None:
    pass


@attrs.define(eq=False)
class Link:
    """A connection; what is sent in one pass of the scheduler is written at once.

    `before_write` may add messages to the outbox. `heard_at` is the time at which the other side
    last sent anything.
    """

    _stream: ByteStream
    outbox: Outbox = attrs.field(factory=Outbox, init=False)
    before_write: Callable[[], None] = _nothing
    heard_at: float = attrs.field(factory=trio.current_time, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)
    _is_writing: bool = attrs.field(default=False, init=False)
    _written: trio.Event = attrs.field(factory=trio.Event, init=False)

    def send(self, kind: FrameKind, message_id: int, payload: bytes) -> None:
        """Queue a message."""
        self.outbox.add(kind, message_id, payload)
        self._wake.set()

    async def read(self, on_frames: Callable[[Sequence[Frame]], None], first: bytes = b"") -> None:
        """Call back with the messages that arrive, after those in `first`.

        Raises: LinkClosed.
        """
        parser = FrameParser()
        received = first
        try:
            while True:
                frames = parser.feed(received)
                if frames:
                    on_frames(frames)
                received = await self._stream.read()
                if not received:
                    raise LinkClosed("the connection was closed")
                self.heard_at = trio.current_time()
        except BrokenFraming as error:
            raise LinkClosed(str(error)) from error

    async def write(self) -> None:
        """Send what is queued, until cancelled. Raises: LinkClosed."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self._is_writing = True
            while self.outbox:
                self.before_write()
                try:
                    await self._stream.write(self.outbox.take())
                except trio.BrokenResourceError as error:
                    raise LinkClosed(str(error) or "the connection broke") from error
            self._is_writing = False
            self._written.set()
            self._written = trio.Event()

    async def wait_written(self) -> None:
        """Wait until everything queued was sent; write() must be running."""
        while self.outbox or self._is_writing:
            await self._written.wait()
