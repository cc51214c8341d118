"""Purge old messages, the content of redacted events, and forgotten rooms.

All of it may be interrupted anywhere: the next run continues with what is left.
"""

import logging
from collections.abc import Callable
from typing import Final

import attrs
import orjson
import trio

from hs.core.events.event import load_event
from hs.core.events.redaction import redact
from hs.core.ids import EventID, RoomID
from hs.core.streams import CacheRow
from hs.core.versions import room_version
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.read.retention_policy import RetentionPolicies
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import CACHE_NAME
from hs.services.rooms.store.state_store import PURGED_ROOMS
from hs.settings.sections.retention import PurgeJob, RetentionSettings
from hs.storage.database import Database
from hs.storage.rooms import purge as storage

BATCH: Final = 200
PAUSE_S: Final = 0.02
"""Pause between batches, which leaves the database to others."""

REDACTED_EVERY_S: Final = 600.0
FORGOTTEN_EVERY_S: Final = 3600.0
_REDACTIONS: Final = "redacted contents"

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class MessagePurge:
    """Purges messages older than the retention policy of their room; runs in one process.

    State events and forward extremities stay: new events refer to them.
    """

    _database: Database
    _events: EventStore
    _policies: RetentionPolicies
    _settings: RetentionSettings
    _clock: Clock

    async def run(self) -> None:
        """Run every purge job at its interval until cancelled."""
        jobs = self._settings.purge_jobs or (PurgeJob(),)
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(self._repeat, job)

    async def purge(self, job: PurgeJob) -> int:
        """Run a job once; return the number of purged messages."""
        list_rooms = storage.list_rooms_with_policy
        if self._settings.default_policy.max_lifetime is not None:
            list_rooms = storage.list_rooms
        purged, after = 0, ""
        while rooms := await self._database.read(list_rooms, after, BATCH):
            for room_id in rooms:
                lifetime_ms = await self._policies.lifetime_ms(RoomID(room_id))
                if lifetime_ms is not None and _applies_to(job, lifetime_ms):
                    purged += await self._purge_room(room_id, self._clock.now_ms() - lifetime_ms)
            after = rooms[-1]
        if purged:
            log.info("retention: purged %d messages", purged)
        return purged

    async def _repeat(self, job: PurgeJob) -> None:
        while True:
            await self.purge(job)
            await trio.sleep(job.interval / 1000)

    async def _purge_room(self, room_id: str, before_ms: int) -> int:
        room_end = await self._database.read(storage.forward_extremities, room_id)
        if room_end is None:
            return 0
        # An event that is not an extremity now will never be one again. Events that arrive after
        # this are not purged, whatever their timestamps, as they may become extremities.
        extremities, last = frozenset(orjson.loads(room_end[0])), room_end[1]
        purged, after = 0, -(2**62)
        while True:
            messages = await self._database.read_long(
                storage.list_old_messages, room_id, before_ms, after, BATCH
            )
            old = [row for row in messages if row[1] not in extremities and row[0] < last]
            if old:
                await self._database.write(storage.delete_events, old)
                for _, event_id in old:
                    self._events.forget(EventID(event_id))
                purged += len(old)
            if len(messages) < BATCH:
                return purged
            after = messages[-1][0]
            await trio.sleep(PAUSE_S)


def _applies_to(job: PurgeJob, lifetime_ms: int) -> bool:
    shortest, longest = job.shortest_max_lifetime, job.longest_max_lifetime
    return (shortest is None or lifetime_ms > shortest) and (
        longest is None or lifetime_ms <= longest
    )


@attrs.frozen(eq=False)
class RedactedContents:
    """Deletes the original content of redacted events some time later; runs in one process."""

    _database: Database
    _events: EventStore
    _clock: Clock
    _period_ms: int

    async def remove(self) -> int:
        """Process all redactions that are old enough; return the number of events pruned."""
        position = await self._database.read(storage.load_progress, _REDACTIONS)
        before_ms, total = self._clock.now_ms() - self._period_ms, 0
        while True:
            redactions = await self._database.read_long(storage.list_redactions, position, BATCH)
            # Senders choose the timestamps of their redactions. A redaction that was stored before
            # one that is old enough counts as old enough as well.
            due_count = max(
                (n for n, row in enumerate(redactions, 1) if row.origin_server_ts <= before_ms),
                default=0,
            )
            if not due_count:
                return total
            pruned = {
                row.event_id: _redacted_pdu(row.event_id, row.pdu, row.version)
                for row in redactions[:due_count]
                if row.event_id and row.pdu is not None and row.version
            }
            position = redactions[due_count - 1].stream_id
            await self._database.write(
                storage.replace_pdus, list(pruned.items()), _REDACTIONS, position
            )
            for event_id in pruned:
                self._events.forget(EventID(event_id))
            total += len(pruned)
            if due_count < BATCH:
                return total
            await trio.sleep(PAUSE_S)


def _redacted_pdu(event_id: str, pdu: bytes, version: str) -> bytes:
    return redact(load_event(EventID(event_id), pdu, room_version(version))).canonical


@attrs.frozen(eq=False)
class ForgottenRooms:
    """Purges rooms that all local users have forgotten; each owner purges its own rooms."""

    _database: Database
    _rooms: HotRooms
    _cache_drops: MemoryWriter[CacheRow]
    _clock: Clock
    _period_ms: int
    _owns: Callable[[RoomID], bool]

    async def purge(self) -> list[RoomID]:
        """Record newly forgotten rooms, and purge those forgotten for long enough.

        Return the IDs of the purged rooms.
        """
        now_ms = self._clock.now_ms()
        await self._database.write(storage.record_forgotten_rooms, now_ms)
        purged = []
        for row in await self._database.read(
            storage.rooms_forgotten_before, now_ms - self._period_ms
        ):
            room_id = RoomID(row)
            if self._owns(room_id) and await self.purge_room(room_id):
                purged.append(room_id)
            await trio.sleep(PAUSE_S)
        if purged:
            log.info("purged %d rooms that all local users had forgotten", len(purged))
        return purged

    async def purge_room(self, room_id: RoomID) -> bool:
        """Purge a room, unless it is in use or a user has not forgotten it."""
        async with self._rooms.exclusive(room_id) as is_idle:
            if not is_idle:
                return False
            members = await self._database.write(storage.purge_forgotten_room, room_id)
            if members is None:
                return False
            self._rooms.discard(room_id)
        rows = [CacheRow(PURGED_ROOMS, (room_id,))]
        if members:
            rows.append(CacheRow(CACHE_NAME, tuple(members)))
        self._cache_drops.append_nowait(rows)
        return True
