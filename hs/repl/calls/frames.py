"""The frames of a connection between two processes.

A message is one frame or, if it is large, several PART frames and a last one of its own kind. Small
messages are sent between the parts of a large one, so it delays them by one frame only; of large
ones, one is sent after the other.
"""

import enum
import struct
from collections import deque
from typing import Final, NamedTuple

import attrs


class FrameKind(enum.IntEnum):
    """The kinds of frames."""

    CALL = 1  # to the owner: an RpcCall; the ID is the caller's
    REPLY = 2  # to the caller: an RpcReply, or nothing if the owner is stopping
    PART = 3  # the beginning, or a middle part, of the message with this ID
    POSITIONS = 4  # to the caller: WriterPositions that the replies after it depend on
    PING = 5  # to the owner, which answers at once
    PONG = 6
    END = 7  # to the caller: all calls that were begun are answered, and no further one is begun


class Frame(NamedTuple):
    """A message as it was received."""

    kind: int
    id: int
    payload: bytes


class BrokenFraming(Exception):
    """The other side sent what is not a frame, or a message that is too large."""


_HEAD: Final = struct.Struct(">IBQ")  # size of the payload, kind, ID
MAX_FRAME_BYTES: Final = 64 * 1024
MAX_MESSAGE_BYTES: Final = 128 * 1024 * 1024
_LAST_KIND: Final = max(FrameKind)


@attrs.define(eq=False)
class Outbox:
    """The messages that wait to be sent."""

    _small: deque[tuple[int, int, bytes]] = attrs.Factory(deque)
    _large: deque[tuple[int, int, memoryview]] = attrs.Factory(deque)

    def __bool__(self) -> bool:
        return bool(self._small or self._large)

    def add(self, kind: FrameKind, message_id: int, payload: bytes) -> None:
        """Add a message of at most MAX_MESSAGE_BYTES."""
        if len(payload) <= MAX_FRAME_BYTES:
            self._small.append((kind, message_id, payload))
        else:
            self._large.append((kind, message_id, memoryview(payload)))

    def add_first(self, kind: FrameKind, payload: bytes) -> None:
        """Add a small message that must be sent before those that wait."""
        self._small.appendleft((kind, 0, payload))

    def take(self) -> bytes:
        """Remove and return some small messages, and one part of a large one."""
        taken: list[bytes | memoryview] = []
        size = 0
        while self._small and size < MAX_FRAME_BYTES:
            kind, message_id, payload = self._small.popleft()
            taken += (_HEAD.pack(len(payload), kind, message_id), payload)
            size += len(payload)
        if self._large:
            kind, message_id, rest = self._large.popleft()
            part = rest[:MAX_FRAME_BYTES]
            if len(part) < len(rest):
                self._large.appendleft((kind, message_id, rest[MAX_FRAME_BYTES:]))
                kind = FrameKind.PART
            taken += (_HEAD.pack(len(part), kind, message_id), part)
        return b"".join(taken)


@attrs.define(eq=False)
class FrameParser:
    """The messages in received bytes."""

    _received: bytes = b""
    _large: bytearray = attrs.Factory(bytearray)
    _large_id: int | None = None

    def feed(self, received: bytes) -> list[Frame]:
        """Return the messages that are complete with these bytes. Raises: BrokenFraming."""
        received = self._received + received if self._received else received
        frames: list[Frame] = []
        start, end = 0, len(received)
        while end - start >= _HEAD.size:
            size, kind, message_id = _HEAD.unpack_from(received, start)
            if size > MAX_FRAME_BYTES or not 0 < kind <= _LAST_KIND:
                raise BrokenFraming("a frame is too large, or of no known kind")
            first = start + _HEAD.size
            if end - first < size:
                break
            start = first + size
            payload = received[first:start]
            if kind == FrameKind.PART:
                self._add_part(message_id, payload)
                continue
            if message_id == self._large_id:
                payload = bytes(self._large) + payload
                self._large, self._large_id = bytearray(), None
            frames.append(Frame(kind, message_id, payload))
        self._received = received[start:]
        return frames

    def _add_part(self, message_id: int, payload: bytes) -> None:
        if self._large_id not in (None, message_id):
            raise BrokenFraming("the parts of two messages are mixed")
        if len(self._large) + len(payload) > MAX_MESSAGE_BYTES:
            raise BrokenFraming("a message is too large")
        self._large_id = message_id
        self._large += payload
