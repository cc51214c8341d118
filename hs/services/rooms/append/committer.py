"""The committer: everything that waits, of all rooms, goes into one transaction; then the answers.

While one commit runs, the next group gathers. A commit runs in the committer's own task, so a
waiter that is cancelled never stops one. When it stops, it first writes what waits.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import trio

from hs.core.errors import MatrixError
from hs.lib.clock import Clock
from hs.repl.rows import EventRow
from hs.repl.writers import TableWriter, WriterReplaced, WriterStopped
from hs.services.rooms.append.commit_transaction import (
    ChainIndexer,
    CommitResult,
    CommitWork,
    commit_group,
)
from hs.services.rooms.append.pending_events import Batch
from hs.services.rooms.store.state_snapshots import Snapshot, unstored
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import DatabaseUnavailable
from hs.storage.rooms.state import Key

MAX_GROUP_EVENTS: Final = 500
MAX_WAITING_EVENTS: Final = 20_000
MAX_KEY_IDS: Final = 200_000
FLUSH_S: Final = 10.0

log = logging.getLogger(__name__)


class NotCommitted(MatrixError):
    """What was appended could not be written down; trying again may help."""

    def __init__(self, message: str) -> None:
        super().__init__("M_UNKNOWN", 503, message)

    def __reduce__(self) -> tuple[type["NotCommitted"], tuple[str]]:
        return (NotCommitted, (self.message,))


@attrs.define(eq=False)
class Committer:
    """Writes batches in the order in which they were handed over."""

    _writer: TableWriter[EventRow]
    _states: StateStore
    _clock: Clock
    _server_name: str
    _index_chains: ChainIndexer
    _queue: list[Batch] = attrs.Factory(list)
    _waiting_events: int = 0
    _wake: trio.Event = attrs.Factory(trio.Event)
    _stopped: bool = False
    _key_ids: dict[Key, int] = attrs.Factory(dict)

    @property
    def waiting_events(self) -> int:
        """How many events wait for the next transaction."""
        return self._waiting_events

    def check_open(self) -> None:
        """Refuse work that would not be written.

        Raises: NotCommitted.
        """
        if self._stopped:
            raise NotCommitted("The server is stopping")
        if self._waiting_events > MAX_WAITING_EVENTS:
            raise NotCommitted("Too many events wait to be written")

    def submit(self, batch: Batch) -> None:
        """Hand a batch over; `check_open` came before, without an await between."""
        self._queue.append(batch)
        self._waiting_events += len(batch.placed)
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until cancelled; then commit what still waits, and stop.

        The TableWriter of the events stream must outlive this.
        """
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                with trio.CancelScope(shield=True):
                    await self._commit_waiting()
        finally:
            self._stopped = True
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._commit_waiting()
            self._fail(self._queue, WriterStopped("events"))

    async def _commit_waiting(self) -> None:
        while self._queue:
            await self._commit(self._take_group())
        self._wake = trio.Event()

    def _take_group(self) -> list[Batch]:
        events = 0
        taken = 0
        for batch in self._queue:
            if taken and events + len(batch.placed) > MAX_GROUP_EVENTS:
                break
            taken += 1
            events += len(batch.placed)
        group = self._queue[:taken]
        del self._queue[:taken]
        self._waiting_events -= events
        return group

    async def _commit(self, group: Sequence[Batch]) -> None:
        work = self._work(group)
        try:
            result = await self._writer.write_now(commit_group, work)
        except (DatabaseUnavailable, WriterStopped, WriterReplaced) as error:
            self._fail(group, error)
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing was written
            await self._isolate(group, error)
        else:
            self._settle(work, result)

    async def _isolate(self, group: Sequence[Batch], error: Exception) -> None:
        # One room's events broke the transaction of all: those of others are tried again.
        rooms: dict[str, list[Batch]] = {}
        for batch in group:
            rooms.setdefault(batch.room_id, []).append(batch)
        if len(rooms) == 1:
            log.error("a commit of events failed", exc_info=error)
            self._fail(group, error)
            return
        for batches in rooms.values():
            await self._commit(batches)

    def _work(self, group: Sequence[Batch]) -> CommitWork:
        wanted: dict[int, tuple[str, Snapshot]] = {}
        for batch in group:
            used = [one.before for one in batch.placed if one.before is not None]
            if batch.head is not None:
                used.append(batch.head.snapshot)
            for snapshot in used:
                if snapshot.id is None:
                    for below in unstored(snapshot):
                        wanted.setdefault(id(below), (batch.room_id, below))
        return CommitWork(
            batches=group,
            snapshots=list(wanted.values()),
            key_ids=self._key_ids,
            writer=self._writer.writer,
            server_name=self._server_name,
            now_ms=self._clock.now_ms(),
            index_chains=self._index_chains,
        )

    def _settle(self, work: CommitWork, result: CommitResult) -> None:
        for (_, snapshot), number in zip(work.snapshots, result.snapshot_ids, strict=True):
            snapshot.settle(number)
            self._states.remember_snapshot(snapshot)
        self._remember_keys(result.key_ids)
        numbers = iter(result.stream_ids)
        for batch in work.batches:
            for one in batch.placed:
                one.stream_id = next(numbers)
        for batch in work.batches:
            batch.finish()

    def _remember_keys(self, interned: Mapping[Key, int]) -> None:
        if len(self._key_ids) > MAX_KEY_IDS:
            self._key_ids.clear()
        self._key_ids.update(interned)

    def _fail(self, group: Sequence[Batch], cause: Exception) -> None:
        lost = {batch.room_id for batch in group}
        # What was built on top of events that never came to be falls with them.
        dependents = [batch for batch in self._queue if batch.room_id in lost]
        self._queue = [batch for batch in self._queue if batch.room_id not in lost]
        self._waiting_events = sum(len(batch.placed) for batch in self._queue)
        for batch in (*group, *dependents):
            if batch.done.is_set():
                continue
            error = NotCommitted("The events could not be written; try again")
            error.__cause__ = cause
            batch.finish(error)
