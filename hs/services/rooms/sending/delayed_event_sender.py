"""The duty that sends delayed events when their time has come, in one process of all.

Its timer is set by the rows: whatever was missed while nobody looked is sent first. A row is
taken, its event appended under the delay's ID as transaction ID, and the row finished; who is
killed in between leaves a row that is taken again, and the append gives the event that is there.

State that somebody else sets meanwhile is newer than what was scheduled before, which is cancelled.
"""

import logging
from collections.abc import Sequence
from typing import Final

import trio

from hs.core.errors import MatrixError, Unavailable
from hs.core.streams import CACHES, EVENTS, CacheRow, EventRow
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.services.rooms.sending.delayed_events import CACHE_NAME, DelayedEvents
from hs.storage.database import Database
from hs.storage.rooms import delayed_events as storage
from hs.storage.rooms.delayed_events import DelayedRecord

AT_ONCE: Final = 200
LOST_AFTER_MS: Final = 15_000
"""Whoever took an event this long ago has lost it."""

LONGEST_SLEEP_S: Final = 20.0
"""Announcements may be lost while processes do not hear each other."""

UPKEEP_PERIOD_S: Final = 3600.0
KEPT_MS: Final = 7 * 24 * 3600 * 1000
KEPT_OF_EACH: Final = 1000

log = logging.getLogger(__name__)


class DelayedSending:
    """Sends what is due; one per process, run by the one that holds the lease."""

    def __init__(
        self, database: Database, feed: Feed, clock: Clock, delayed: DelayedEvents
    ) -> None:
        self._database = database
        self._clock = clock
        self._delayed = delayed
        self._earlier = trio.Event()
        self._next_ms: int | None = None
        # Where state is scheduled; what was announced while that was being read is in both.
        self._rooms: set[str] = set()
        self._announced: set[str] = set()
        feed.subscribe(CACHES, self._on_announcements)
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    async def run(self) -> None:
        """Send for ever."""
        # Whoever did this before is gone: what they took is ours.
        lost_before_ms = self._clock.now_ms()
        while True:
            self._earlier, self._next_ms = trio.Event(), None
            if not await self.send_due(lost_before_ms):
                await self._sleep()
            lost_before_ms = self._clock.now_ms() - LOST_AFTER_MS

    async def send_due(self, lost_before_ms: int) -> int:
        """Send what is due, at most AT_ONCE; give how many there were."""
        now_ms = self._clock.now_ms()
        due = await self._database.write(storage.take_due, now_ms, lost_before_ms, AT_ONCE)
        rooms: dict[str, list[DelayedRecord]] = {}
        for record in due:
            rooms.setdefault(record.room_id, []).append(record)
        async with trio.open_nursery() as nursery:
            for records in rooms.values():
                nursery.start_soon(self._send_all, records)
        return len(due)

    async def forget_old(self) -> int:
        """Forget what is over for long; a chore of one process."""
        before_ms = self._clock.now_ms() - KEPT_MS
        return await self._database.write(storage.prune, before_ms, KEPT_OF_EACH)

    async def _send_all(self, records: Sequence[DelayedRecord]) -> None:
        for record in records:
            try:
                await self._delayed.send_taken(record)
            except (MatrixError, Unavailable) as error:
                # It stays taken, and is taken again after a while.
                log.warning("a delayed event cannot be sent yet: %s", error)
            except Exception:
                # One that breaks something must not keep the others from being sent.
                log.exception("the delayed event %s could not be sent", record.delay_id)

    async def _sleep(self) -> None:
        self._announced = set()
        self._rooms = {
            *await self._database.read(storage.rooms_with_scheduled_state),
            *self._announced,
        }
        self._next_ms = await self._database.read(storage.next_due, LOST_AFTER_MS)
        pause_s = LONGEST_SLEEP_S
        if self._next_ms is not None:
            # One more: the clock tells whole milliseconds.
            left_ms = self._next_ms - self._clock.now_ms() + 1
            pause_s = min(max(left_ms, 1) / 1000, LONGEST_SLEEP_S)
        with trio.move_on_after(pause_s):
            await self._earlier.wait()

    def _on_announcements(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._earlier.set()
            return
        for _, row in batch.rows:
            if row.cache != CACHE_NAME:
                continue
            send_ms, *rooms_of_state = row.keys
            self._rooms.update(rooms_of_state)
            self._announced.update(rooms_of_state)
            # While it is being read when the next one is due, anything may be earlier.
            if self._next_ms is None or int(send_ms) < self._next_ms:
                self._earlier.set()

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if self._rooms and any(
            row.state_key is not None and row.room_id in self._rooms for _, row in batch.rows
        ):
            self._earlier.set()
