"""The writing end of memory streams: nothing is stored, a restart begins a new epoch."""

from collections import deque
from typing import Generic, TypeVar

import attrs

from hs.repl.feed import Batch
from hs.repl.streams import StreamDef
from hs.repl.transport import Transport

R = TypeVar("R")


def epoch_at(now_ms: int) -> int:
    """Give the epoch of a writer that starts now.

    Positions count up from it, so they grow over restarts as well, as long as a writer adds fewer
    than a million rows a second; and a position below the epoch is one of an earlier life.
    """
    return now_ms * 1000


@attrs.define(eq=False)
class MemoryWriter(Generic[R]):
    """The only writer of a memory stream under one instance's name."""

    stream: StreamDef[R]
    writer: str
    _transport: Transport
    epoch: int
    position: int = attrs.field(init=False)
    _recent: deque[tuple[int, R]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.position = self.epoch
        self._recent = deque(maxlen=self.stream.recent)

    @property
    def committed(self) -> int:
        """Give the position of the last row; rows are published as they are added."""
        return self.position

    def attach(self) -> None:
        """Make the writer known to its transport; once, before the first row."""
        self._transport.attach(self)

    def append_nowait(self, rows: list[R]) -> int:
        """Add rows and deliver them to this process's feed; give the position of the last."""
        prev = self.position
        numbered = list(enumerate(rows, prev + 1))
        self.position = prev + len(rows)
        self._recent.extend(numbered)
        self._transport.publish(Batch(self.stream, self.writer, prev, self.position, numbered))
        return self.position

    def since(self, after: int) -> Batch[R]:
        """Give what a reader that has seen `after` missed; a reset when that is not known any more.

        A reset holds the rows still remembered: for cache streams readers drop everything.
        """
        first_kept = self._recent[0][0] if self._recent else self.position + 1
        if self.epoch <= after and first_kept <= after + 1:
            rows = [row for row in self._recent if row[0] > after]
            return Batch(self.stream, self.writer, after, self.position, rows)
        return Batch(self.stream, self.writer, 0, self.position, list(self._recent), reset=True)
