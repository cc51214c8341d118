"""Which events are sticky, and which of them a reader has not received yet.

Data flow: the client's draft has a duration; the event that is built from it has the top-level
field, which the hash and the signature cover and which redaction removes. The transaction that
commits the event also writes its row of `sticky_events`, and the row of the stream of events says
until when it is sticky. Every process keeps the rows of all sticky events in memory, read once
from the table and then followed by the feed, so that rooms without sticky events cost nothing.

Invariants:

- An event is sticky from the commit until `expires_ms`, unless it is redacted, purged or not
  accepted. A soft-failed event has a row too, which is never delivered: a server that federates
  has to check such an event again when the state of the room changes, and store it again.
- The position of a sticky event is that of its row in the stream of events. So a position in that
  stream tells which sticky events a reader has: all that it covers. A page with more than fits
  ends at an earlier position, and whoever continues there misses none.
- Of a room that the reader joins, all events that are still sticky are new. If they do not fit into
  the page, the position to continue from is before other events that the reader has received, and
  it receives these once more: rather twice than never.
- Of each room, memory has all events as of the feed, or it is known that the table must be read,
  because the room has very many. One statement reads it for all such rooms.

Spec: MSC4354, MSC4480.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

import attrs

from hs.core.events.sticky import sticky_until
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.followers import KeyFollower
from hs.services.rooms.store.sticky_index import (
    MAX_ROOMS,
    RoomInTable,
    StickyIndex,
    by_stream_id,
)
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import sticky_events as storage
from hs.storage.rooms.sticky_events import StickyRange, StickyRecord

MAX_IN_MEMORY: Final = 20_000
SWEEP_MS: Final = 60_000
"""How often expired events are dropped from memory, and how long it may stay incomplete."""

CHUNK: Final = 1000
MAX_CHUNKS: Final = 20
_LOWEST: Final = -(2**62)


@attrs.frozen(eq=False)
class StickyScope:
    """The rooms of which a reader wants the sticky events.

    `rooms` returns all of them; it is called if the table must be read. The reader has received
    nothing of `new_rooms`, which `includes` need not know.
    """

    includes: Callable[[RoomID], bool]
    rooms: Callable[[], Iterable[RoomID]]
    new_rooms: Collection[RoomID] = ()


@attrs.frozen(eq=False)
class StickyPage:
    """Sticky events in stream order, and the position to continue from; None: there are no more."""

    records: list[StickyRecord]
    reached: VectorPosition | None


class _Arrival(NamedTuple):
    """A row of the stream of events."""

    stream_id: int
    writer: str
    row: EventRow


@attrs.frozen(eq=False)
class _Reading:
    """A page of the events of rooms that are only in the table."""

    rooms: list[RoomID]
    new_rooms: list[RoomID]
    since: VectorPosition | None
    upto: VectorPosition
    limit: int


class StickyEvents:
    """The sticky events of all rooms; every process has one."""

    def __init__(
        self, database: Database, feed: Feed, clock: Clock, max_in_memory: int = MAX_IN_MEMORY
    ) -> None:
        self._database = database
        self._clock = clock
        self._max_in_memory = max_in_memory
        self._cache: LruCache[None, StickyIndex] = LruCache("sticky_events", max_entries=1)
        self._follower = KeyFollower(self._cache, self._read, self._apply)
        feed.subscribe(EVENTS, self._on_rows, Interest.CHANGES)

    def until_ms(self, stored: StoredEvent) -> int:
        """Return the time (ms) until which an event is sticky; 0 if it is not."""
        now_ms = self._clock.now_ms()
        until_ms = 0 if stored.redacted_by is not None else sticky_until(stored.event, now_ms)
        sent_ms = stored.event.origin_server_ts
        return self.until_by(stored.event_id, sent_ms, until_ms) if until_ms else 0

    def until_by(self, event_id: EventID, sent_ms: int, until_ms: int) -> int:
        """Return the time (ms) until which an event is sticky that is so by its own fields."""
        index = self._cache.get(None)
        record = None if index is None else index.by_id.get(event_id)
        if record is not None:
            return record.expires_ms
        # If its timestamp is in the future, only the time when it was received would tell.
        return 0 if sent_ms > self._clock.now_ms() else until_ms

    def is_sticky(self, stored: StoredEvent) -> bool:
        """Return whether an event is sticky now."""
        return self.until_ms(stored) > self._clock.now_ms()

    async def rooms_among(self, room_ids: Collection[RoomID]) -> Collection[RoomID]:
        """Return those of the rooms that may have sticky events."""
        index = await self._loaded()
        if not index.is_complete:
            return room_ids
        return [
            RoomID(room_id)
            for known in (index.by_room, index.in_table)
            for room_id in _both(known, room_ids)
        ]

    def has_none_after(self, since: VectorPosition) -> bool:
        """Return whether it is known, without a read, that no event after a position is sticky."""
        index = self._cache.get(None)
        if index is None or not index.is_complete or index.in_table:
            return False
        return next(index.after(since), None) is None

    async def page(
        self, scope: StickyScope, since: VectorPosition | None, upto: VectorPosition, limit: int
    ) -> StickyPage:
        """Return the first sticky events that a reader has not received yet.

        That are those after `since`, and of new rooms all; without `since`, all of all rooms.
        """
        index = await self._loaded()
        found: list[StickyRecord] = []
        if index.is_complete:
            found = _in_memory(index, scope, since)
            rooms, new_rooms = self._rooms_in_table(index, scope, since)
        else:
            new_rooms = list(scope.new_rooms)
            rooms = list(set(scope.rooms()).difference(new_rooms))
        last = None
        if rooms or new_rooms:
            where = _Reading(rooms, new_rooms, since, upto, limit)
            records, last = await self._read_table(where)
            found += records
        return _first(found, upto, self._clock.now_ms(), limit, last)

    def _rooms_in_table(
        self, index: StickyIndex, scope: StickyScope, since: VectorPosition | None
    ) -> tuple[list[RoomID], list[RoomID]]:
        """Return the rooms, and the new rooms, whose events must be read from the table."""
        if not index.in_table:
            return [], []
        now_ms = self._clock.now_ms()
        in_table = {
            RoomID(room_id): room
            for room_id, room in index.in_table.items()
            if room.expires_ms > now_ms
        }
        new_rooms = [room_id for room_id in scope.new_rooms if room_id in in_table]
        floor = _LOWEST if since is None else since.floor
        rooms = [
            room_id
            for room_id, room in in_table.items()
            if room.stream_id > floor and room_id not in new_rooms and scope.includes(room_id)
        ]
        return rooms, new_rooms

    async def _loaded(self) -> StickyIndex:
        index = await self._follower.get(None)
        if not index.is_complete and self._clock.now_ms() - index.swept_ms > SWEEP_MS:
            self._follower.invalidate(None)
            index = await self._follower.get(None)
        return index

    async def _read_table(self, reading: _Reading) -> tuple[list[StickyRecord], int | None]:
        """Return the events of rooms, and the stream ID of the last one if there are more."""
        since, low = reading.since, _LOWEST
        floor = _LOWEST if since is None else since.floor
        new_rooms = set(reading.new_rooms)
        found: list[StickyRecord] = []
        for _ in range(MAX_CHUNKS):
            where = StickyRange(
                reading.rooms, max(low, floor), reading.new_rooms, low, reading.upto.most()
            )
            now_ms = self._clock.now_ms()
            records = await self._database.read(storage.list_in_rooms, where, now_ms, CHUNK)
            # Of writers that are ahead of the others, the reader has later events than the floor.
            found += [
                record
                for record in records
                if since is None
                or record.room_id in new_rooms
                or not since.covers(record.writer, record.stream_id)
            ]
            if len(records) < CHUNK:
                return found, None
            low = records[-1].stream_id
            if len(found) > reading.limit:
                break
        return found, low

    async def _read(self, keys: list[None]) -> Mapping[None, StickyIndex]:
        now_ms, most = self._clock.now_ms(), self._max_in_memory
        index = StickyIndex(most, now_ms)
        records = await self._database.read(storage.list_unexpired, now_ms, most + 1)
        if len(records) <= most:
            index.by_id = {record.event_id: record for record in records}
        else:
            rooms = await self._database.read(storage.list_rooms, now_ms, MAX_ROOMS + 1)
            index.in_table = {room_id: RoomInTable(*last) for room_id, *last in rooms}
        index.sweep(now_ms)
        return {None: index}

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if row.sticky_until or row.redaction_applies:
                self._follower.update(None, _Arrival(stream_id, batch.writer, row))

    def _apply(self, index: StickyIndex, arrival: _Arrival) -> StickyIndex:
        stream_id, writer, row = arrival
        if not index.is_complete:
            return index
        if row.redaction_applies and row.redacts is not None:
            index.remove(row.redacts)
        if row.sticky_until and not row.soft_failed:
            record = StickyRecord(row.event_id, row.room_id, stream_id, writer, row.sticky_until)
            now_ms = self._clock.now_ms()
            # A row that the read from the table has seen may arrive once more.
            if index.by_id.get(row.event_id) != record:
                index.add(record, now_ms)
            if now_ms - index.swept_ms > SWEEP_MS:
                index.sweep(now_ms)
        return index


def _in_memory(
    index: StickyIndex, scope: StickyScope, since: VectorPosition | None
) -> list[StickyRecord]:
    found: list[StickyRecord] = []
    if since is not None:
        found += [each for each in index.after(since) if scope.includes(RoomID(each.room_id))]
    else:
        for room_id, records in index.by_room.items():
            if scope.includes(RoomID(room_id)):
                found += records.values()
    for room_id in scope.new_rooms:
        found += index.by_room.get(room_id, {}).values()
    return found


def _first(
    found: Iterable[StickyRecord],
    upto: VectorPosition,
    now_ms: int,
    limit: int,
    last: int | None,
) -> StickyPage:
    """Return the page of what was found; nothing after `last` was read, unless it is None."""
    unique = {
        record.event_id: record
        for record in found
        if record.expires_ms > now_ms
        and upto.covers(record.writer, record.stream_id)
        and (last is None or record.stream_id <= last)
    }
    records = sorted(unique.values(), key=by_stream_id)
    if len(records) > limit:
        records = records[:limit]
        last = records[-1].stream_id
    return StickyPage(records, None if last is None else upto.capped(last))


def _both(known: Collection[str], room_ids: Collection[RoomID]) -> list[str]:
    """Return what two collections have in common, in time that depends on the smaller one."""
    if len(known) < len(room_ids):
        return [room_id for room_id in known if room_id in room_ids]
    return [room_id for room_id in room_ids if room_id in known]
