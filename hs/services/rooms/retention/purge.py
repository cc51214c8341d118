"""Takes away what has been kept long enough: old messages, redacted contents, forgotten rooms.

All of it may be interrupted anywhere: what is not done yet, the next round finds.
"""

import logging
from collections.abc import Callable
from typing import Final

import attrs
import orjson
import trio

from hs.core.events.format import load_event
from hs.core.events.redaction import redact
from hs.core.ids import EventID, RoomID
from hs.core.versions import room_version
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
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
"""Rest between batches, so that others get their turn at the database."""

REDACTED_EVERY_S: Final = 600.0
FORGOTTEN_EVERY_S: Final = 3600.0
_REDACTIONS: Final = "redacted contents"

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class MessagePurge:
    """Deletes messages that are older than their rooms keep them; one process does.

    State stays, and so does what a room ends with: new events build on it.
    """

    _database: Database
    _events: EventStore
    _policies: RetentionPolicies
    _settings: RetentionSettings
    _clock: Clock

    async def run(self) -> None:
        """Do every job at its interval, for ever."""
        jobs = self._settings.purge_jobs or (PurgeJob(),)
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(self._repeat, job)

    async def purge(self, job: PurgeJob) -> int:
        """Do a job once; give how many messages are gone."""
        find = storage.rooms_with_policy
        if self._settings.default_policy.max_lifetime is not None:
            find = storage.rooms
        gone, after = 0, ""
        while rooms := await self._database.read(find, after, BATCH):
            for room_id in rooms:
                lifetime_ms = await self._policies.lifetime_ms(RoomID(room_id))
                if lifetime_ms is not None and _concerns(job, lifetime_ms):
                    gone += await self._purge_room(room_id, self._clock.now_ms() - lifetime_ms)
            after = rooms[-1]
        if gone:
            log.info("retention: %d old messages are gone", gone)
        return gone

    async def _repeat(self, job: PurgeJob) -> None:
        while True:
            await self.purge(job)
            await trio.sleep(job.interval / 1000)

    async def _purge_room(self, room_id: str, before_ms: int) -> int:
        end = await self._database.read(storage.room_end, room_id)
        if end is None:
            return 0
        # What is no extremity now will never be one again. What comes after this is left alone,
        # however old it says that it is: it may be what the room ends with.
        extremities, last = frozenset(orjson.loads(end[0])), end[1]
        gone, after = 0, -(2**62)
        while True:
            found = await self._database.read_long(
                storage.old_messages, room_id, before_ms, after, BATCH
            )
            old = [one for one in found if one[1] not in extremities and one[0] < last]
            if old:
                await self._database.write(storage.delete_events, old)
                for _, event_id in old:
                    self._events.forget(EventID(event_id))
                gone += len(old)
            if len(found) < BATCH:
                return gone
            after = found[-1][0]
            await trio.sleep(PAUSE_S)


def _concerns(job: PurgeJob, lifetime_ms: int) -> bool:
    shortest, longest = job.shortest_max_lifetime, job.longest_max_lifetime
    return (shortest is None or lifetime_ms > shortest) and (
        longest is None or lifetime_ms <= longest
    )


@attrs.frozen(eq=False)
class RedactedContents:
    """Deletes what redacted events said, some time after they were redacted; one process does."""

    _database: Database
    _events: EventStore
    _clock: Clock
    _period_ms: int

    async def remove(self) -> int:
        """Do it for all redactions that are old enough; give how many events it was."""
        position = await self._database.read(storage.progress, _REDACTIONS)
        before_ms, gone = self._clock.now_ms() - self._period_ms, 0
        while True:
            found = await self._database.read_long(storage.redacted, position, BATCH)
            # Senders choose the times of their redactions; one behind which others are old
            # enough is old enough as well.
            due = max(
                (n for n, one in enumerate(found, 1) if one.origin_server_ts <= before_ms),
                default=0,
            )
            if not due:
                return gone
            pruned = {
                one.event_id: _pruned(one.event_id, bytes(one.pdu), one.version)
                for one in found[:due]
                if one.event_id and one.pdu is not None and one.version
            }
            position = found[due - 1].stream_id
            await self._database.write(
                storage.replace_pdus, list(pruned.items()), _REDACTIONS, position
            )
            for event_id in pruned:
                self._events.forget(EventID(event_id))
            gone += len(pruned)
            if due < BATCH:
                return gone
            await trio.sleep(PAUSE_S)


def _pruned(event_id: str, pdu: bytes, version: str) -> bytes:
    return redact(load_event(EventID(event_id), pdu, room_version(version))).canonical


@attrs.frozen(eq=False)
class ForgottenRooms:
    """Deletes rooms that all users here have forgotten; each owner of rooms does its own."""

    _database: Database
    _rooms: HotRooms
    _cache_drops: MemoryWriter[CacheRow]
    _clock: Clock
    _period_ms: int
    _owns: Callable[[RoomID], bool]

    async def purge(self) -> list[RoomID]:
        """Note which rooms are forgotten, and delete those that have been for long enough."""
        now_ms = self._clock.now_ms()
        await self._database.write(storage.note_forgotten, now_ms)
        purged = []
        for found in await self._database.read(storage.long_forgotten, now_ms - self._period_ms):
            room_id = RoomID(found)
            if self._owns(room_id) and await self.purge_room(room_id):
                purged.append(room_id)
            await trio.sleep(PAUSE_S)
        if purged:
            log.info("%d rooms that everybody here forgot are gone", len(purged))
        return purged

    async def purge_room(self, room_id: RoomID) -> bool:
        """Delete one room, unless somebody remembers it."""
        async with self._rooms.alone(room_id) as is_idle:
            if not is_idle:
                return False
            members = await self._database.write(storage.purge_forgotten, room_id)
            if members is None:
                return False
            self._rooms.drop(room_id)
        rows = [CacheRow(PURGED_ROOMS, (room_id,))]
        if members:
            rows.append(CacheRow(CACHE_NAME, tuple(members)))
        self._cache_drops.append_nowait(rows)
        return True
