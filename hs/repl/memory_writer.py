"""The writer of memory streams: it stores nothing, and each start begins a new epoch."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import attrs

from hs.core.stream_def import StreamDef
from hs.repl.feed import Batch
from hs.repl.transport import Transport
from hs.storage import stream_log
from hs.storage.database import Database, Tx

R = TypeVar("R")

RESERVED: Final = 10**9
"""Positions reserved for one life of a writer; more than it needs."""


def epoch_at(now_ms: int) -> int:
    """Return the epoch of a writer that starts now.

    Positions count up from it, so they grow over restarts too. If the clock was set back, or stands
    still, `attach_writers` begins at a higher one. A position below the epoch is one of an earlier
    life.
    """
    return now_ms * 1000


@attrs.define(eq=False)
class MemoryWriter(Generic[R]):
    """The only writer of a memory stream under the name of an instance.

    It remembers recent rows for readers that missed some: the last `stream.recent` ones or, where
    rows have a key, the last row of each of so many keys.
    """

    stream: StreamDef[R]
    writer: str
    _transport: Transport
    epoch: int
    position: int = attrs.field(init=False)
    # By key, in the order of their numbers; after `_forgotten` only replaced rows are missing.
    _recent: OrderedDict[Hashable, tuple[int, R]] = attrs.field(init=False, factory=OrderedDict)
    _forgotten: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.position = self._forgotten = self.epoch

    @property
    def committed(self) -> int:
        """Position of the last row; rows are published as they are added."""
        return self.position

    def begin_at(self, epoch: int) -> None:
        """Begin the life of the writer at this epoch; before `attach`."""
        self.epoch = self.position = self._forgotten = epoch

    def attach(self) -> None:
        """Attach the writer to its transport; once, before the first row."""
        self._transport.attach(self)

    def append_nowait(self, rows: list[R]) -> int:
        """Add rows and deliver them to this process's feed; return the position of the last."""
        prev = self.position
        numbered = list(enumerate(rows, prev + 1))
        self.position = prev + len(rows)
        self._remember(numbered)
        self._transport.publish(Batch(self.stream, self.writer, prev, self.position, numbered))
        return self.position

    def since(self, after: int) -> Batch[R]:
        """Return the rows after a position; a reset if some of them are no longer remembered.

        A reset has all remembered rows. Readers of cache invalidations then drop whole caches.
        """
        rows = list(self._recent.values())
        if self._forgotten <= after:
            rows = [row for row in rows if row[0] > after]
            return Batch(self.stream, self.writer, after, self.position, rows)
        return Batch(self.stream, self.writer, self._forgotten, self.position, rows, reset=True)

    def forget(self, matches: Callable[[str], bool]) -> None:
        """Forget the rows about keys that another process is about to write.

        If they come back, readers would take them for newer than the rows of that process.
        """
        key_of = self.stream.owner_key
        assert key_of is not None
        for key in [key for key, (_, row) in self._recent.items() if matches(key_of(row))]:
            del self._recent[key]

    def _remember(self, rows: list[tuple[int, R]]) -> None:
        key_of, recent = self.stream.key, self._recent
        for number, row in rows:
            key = number if key_of is None else key_of(row)
            recent.pop(key, None)
            recent[key] = (number, row)
        while len(recent) > self.stream.recent:
            _, (self._forgotten, _) = recent.popitem(last=False)


async def attach_writers(database: Database, writers: Iterable[MemoryWriter[Any]]) -> None:
    """Begin the life of each writer above all positions of earlier ones, and attach it.

    Raises: DatabaseError.
    """
    by_stream = {writer.stream.name: writer for writer in writers}
    wanted = {name: (writer.writer, writer.epoch) for name, writer in by_stream.items()}
    epochs = await database.write(_reserve_all, wanted)
    for name, writer in by_stream.items():
        writer.begin_at(epochs[name])
        writer.attach()


async def _reserve_all(tx: Tx, wanted: dict[str, tuple[str, int]]) -> dict[str, int]:
    return {
        name: await stream_log.reserve(tx, name, writer, epoch, RESERVED)
        for name, (writer, epoch) in sorted(wanted.items())
    }
