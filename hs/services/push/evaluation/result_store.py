"""Results of the evaluation: announced at once, stored a moment later with the position.

Rules:

- `publish` appends the results of some events to the pending results, moves the position past
  these events and announces both on the stream `unread`, with no await in between. So pending
  results and position always belong together.
- `flush` takes the pending results and the position at one moment and writes them in one
  transaction. After a crash the evaluation continues from the stored position, so every event
  after it is evaluated again and none before it: no notification is lost or queued twice.
- A write whose outcome is unknown, for example because the connection was lost, is repeated with
  the same rows; the tables ignore rows that they have. That is why notifications have their
  numbers before they are written.
- The transaction ends without effect if another process took over the evaluation, whatever its
  name; the duty then ends with WriterReplaced. So processes that disagree on the writer of
  `unread` never store results in turns.
- Notifications are announced on the stream `pushes` after the commit. If the process ends between
  the two, the stream `pushes` begins anew and its readers look into the table.
"""

import secrets
from typing import Final

import attrs
import trio

from hs.core.positions import VectorPosition
from hs.core.stream_def import ANY_PROCESS
from hs.core.streams import UnreadRow
from hs.repl.generations import WriterReplaced
from hs.repl.memory_writer import MemoryWriter
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.push_queue import PushQueue
from hs.storage import stream_log
from hs.storage.database import Database, Tx
from hs.storage.push import push_rules as storage
from hs.storage.push.push_rules import Evaluated

MAX_UNSTORED_BATCHES: Final = 500
"""After so many batches the position is stored even if none of them had a result."""


@attrs.frozen
class Progress:
    """How far results are stored.

    `stored` is a position of the stream `unread`, `evaluated` an encoded position of the stream
    `events`: all results up to them are in the database.
    """

    stored: int
    evaluated: str


@attrs.frozen(eq=False)
class ResultTables:
    """The tables of results, written until another process takes over the stream `unread`."""

    _database: Database
    _stream: str
    _life: str = attrs.Factory(lambda: secrets.token_hex(8))

    async def take_over(self) -> None:
        """Become the process that may write; all others are refused from now on."""
        await self._database.write(stream_log.take_over, self._stream, ANY_PROCESS, self._life)

    async def write(self, evaluated: Evaluated) -> None:
        """Store results and position. Raises: WriterReplaced."""
        await self._database.write(_store_as, self._stream, self._life, evaluated)


class ResultStore:
    """The results of one process, pending and stored; `position` covers both."""

    def __init__(
        self, tables: ResultTables, writer: MemoryWriter[UnreadRow], queue: PushQueue
    ) -> None:
        self.position = VectorPosition()
        self.progress = Progress(0, self.position.encode())
        self._tables = tables
        self._writer = writer
        self._queue = queue
        self._pending = EventResults()
        self._storing = trio.Lock()
        self._has_work = trio.Event()

    async def take_over(self) -> None:
        """Become the process that may store results."""
        await self._tables.take_over()

    def advance(self, position: VectorPosition) -> None:
        """Note that all events up to a position have been evaluated."""
        self.position = self.position.merge(position)

    def publish(self, results: EventResults, writer: str, upto: int) -> None:
        """Announce the results of a writer's events up to a position, and keep them pending."""
        self.position = self.position.advance(writer, upto)
        self._pending.append(results)
        self._pending.batches += 1
        self._writer.append_nowait([results.stream_row(writer, upto, self.progress.stored)])
        if self._pending or self._pending.batches >= MAX_UNSTORED_BATCHES:
            self._has_work.set()

    async def wait_for_work(self) -> None:
        """Wait until there is something to store."""
        await self._has_work.wait()
        self._has_work = trio.Event()

    async def flush(self) -> None:
        """Store everything published so far.

        Raises: WriterReplaced, DatabaseError; then the results stay pending.
        """
        async with self._storing:
            pending, self._pending = self._pending, EventResults()
            progress = Progress(self._writer.position, self.position.encode())
            if pending.batches:
                await self._write(pending, progress.evaluated)
            self.progress = progress
            self._queue.announce(pending.pushes)

    async def _write(self, pending: EventResults, position: str) -> None:
        try:
            await self._tables.write(pending.records(position))
        except BaseException:
            pending.append(self._pending)
            self._pending = pending
            self._has_work.set()
            raise


async def _store_as(tx: Tx, stream: str, life: str, evaluated: Evaluated) -> None:
    if not await stream_log.is_writer(tx, stream, ANY_PROCESS, life):
        raise WriterReplaced(stream, "the evaluating process")
    await storage.store_results(tx, evaluated)
