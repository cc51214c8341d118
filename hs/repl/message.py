"""The messages between processes about streams: one MessagePack array each."""

import enum
from typing import Any

import msgspec

from hs.repl.feed import Batch
from hs.repl.row_codec import encode_rows
from hs.repl.transport import Source


class MessageKind(enum.IntEnum):
    """The kinds of messages."""

    ROWS = 0  # a commit
    POSITION = 1  # a writer has published all rows up to `position`; its last row is at `prev`
    REPLICATE = 2  # all processes shall announce their positions
    # Proves the connection, because the sender receives it too; `stream` is the digest of the
    # shared settings.
    ALIVE = 3
    LEAVING = 4  # the process stops as intended and most likely starts again


class Message(msgspec.Struct, array_like=True, frozen=True):
    """A message; `rows` stay encoded until they are delivered to subscribers.

    `slots` is the position in the stream of slots that receivers must have reached before. With
    `plain`, all rows are plain ones (`StreamDef.is_plain`). So are all those between `changed`
    and `prev`, unless it is None.
    """

    kind: MessageKind
    instance: str
    stream: str = ""
    writer: str = ""
    prev: int = 0
    position: int = 0
    epoch: int = 0
    rows: msgspec.Raw = msgspec.Raw(b"\x90")
    slots: int = 0
    plain: bool = False
    changed: int | None = None

    def follows(self, has_plain: bool) -> int:
        """Return up to where a process must have had all rows, or all that are not plain."""
        return self.prev if has_plain or self.changed is None else self.changed


_encoder = msgspec.msgpack.Encoder()


def encode_message(message: Message) -> bytes:
    """Encode a message; safe in any thread."""
    return _encoder.encode(message)


def rows_message(
    instance: str,
    batch: Batch[Any],
    epoch: int,
    slots: int = 0,
    changed: int | None = None,
    *,
    plain: bool = False,
) -> Message:
    """Return the message about a commit."""
    return Message(
        MessageKind.ROWS,
        instance,
        stream=batch.stream.name,
        writer=batch.writer,
        prev=batch.prev,
        position=batch.position,
        epoch=epoch,
        rows=msgspec.Raw(encode_rows(batch.rows)),
        slots=slots,
        plain=plain,
        changed=changed,
    )


def position_message(
    instance: str, source: Source, slots: int = 0, changed: int | None = None
) -> Message:
    """Return the message that announces the position of a writer of this process."""
    return Message(
        MessageKind.POSITION,
        instance,
        stream=source.stream.name,
        writer=source.writer,
        prev=source.committed,
        position=source.position,
        epoch=source.epoch,
        slots=slots,
        changed=changed,
    )
