"""What processes say to each other about streams: one MessagePack array per message."""

import enum
from typing import Any

import msgspec

from hs.repl.feed import Batch
from hs.repl.row_codec import encode_rows
from hs.repl.transport import Source


class Saying(enum.IntEnum):
    """The kinds of messages."""

    ROWS = 0  # a commit
    POSITION = 1  # a writer has said everything up to `position`; its last row is at `prev`
    REPLICATE = 2  # everybody is asked for their positions
    ALIVE = 3  # nothing; it comes back to its sender, and so proves the connection
    LEAVING = 4  # its process ends in order, and will most likely be started again


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message; `rows` stays encoded until a subscriber wants it."""

    saying: Saying
    instance: str
    stream: str = ""
    writer: str = ""
    prev: int = 0
    position: int = 0
    epoch: int = 0
    rows: msgspec.Raw = msgspec.Raw(b"\x90")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """Encode a message; safe in any thread."""
    return _encoder.encode(message)


def decode_message(encoded: bytes) -> Message:
    """Decode a message.

    Raises: msgspec.ValidationError, msgspec.DecodeError.
    """
    return _decoder.decode(encoded)


def rows_message(instance: str, batch: Batch[Any], epoch: int) -> Message:
    """Tell of a commit."""
    return Message(
        Saying.ROWS,
        instance,
        batch.stream.name,
        batch.writer,
        batch.prev,
        batch.position,
        epoch,
        msgspec.Raw(encode_rows(batch.rows)),
    )


def position_message(instance: str, source: Source) -> Message:
    """Tell where a writer of this process is."""
    return Message(
        Saying.POSITION,
        instance,
        source.stream.name,
        source.writer,
        source.committed,
        source.position,
        source.epoch,
    )
