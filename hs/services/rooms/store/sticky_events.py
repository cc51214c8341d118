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
- The memory is complete as of the feed, or it is known not to be, because there are too many sticky
  events. Then the table is read, by one statement for all rooms, and after a while the memory is
  filled again.

Spec: MSC4354, MSC4480.
"""

import operator
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from hs.core.events.sticky import sticky_until
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.followers import KeyFollower
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import sticky_events as storage
from hs.storage.rooms.sticky_events import StickyRange, StickyRecord

MAX_IN_MEMORY: Final = 20_000
SWEEP_MS: Final = 60_000
"""How often expired events are dropped from memory, and how long it stays incomplete."""

CHUNK: Final = 1000
MAX_CHUNKS: Final = 20
_LOWEST: Final = -(2**62)
_stream_id = operator.attrgetter("stream_id")


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


@attrs.define(eq=False)
class _Index:
    """The sticky events of all rooms; empty if there are too many (`is_complete` is false)."""

    max_events: int
    swept_ms: int
    is_complete: bool = True
    by_id: dict[str, StickyRecord] = attrs.Factory(dict)
    by_room: dict[str, dict[str, StickyRecord]] = attrs.Factory(dict)
    # In stream order. Removed events stay until the next sweep.
    by_writer: dict[str, list[StickyRecord]] = attrs.Factory(dict)

    def fill(self, records: Iterable[StickyRecord], now_ms: int) -> None:
        """Replace all events; drop all if there are too many."""
        kept = {record.event_id: record for record in records if record.expires_ms > now_ms}
        self.is_complete = len(kept) <= self.max_events
        self.swept_ms = now_ms
        self.by_id, self.by_room, self.by_writer = {}, {}, {}
        if self.is_complete:
            for record in sorted(kept.values(), key=_stream_id):
                self.add(record)

    def add(self, record: StickyRecord) -> None:
        """Add an event; almost always it is the last one of its writer."""
        self.by_id[record.event_id] = record
        self.by_room.setdefault(record.room_id, {})[record.event_id] = record
        insort(self.by_writer.setdefault(record.writer, []), record, key=_stream_id)

    def remove(self, event_id: str) -> None:
        """Remove an event if it is there."""
        record = self.by_id.pop(event_id, None)
        if record is not None:
            in_room = self.by_room[record.room_id]
            del in_room[event_id]
            if not in_room:
                del self.by_room[record.room_id]

    def after(self, since: VectorPosition) -> Iterator[StickyRecord]:
        """Yield the events that a position does not cover."""
        for writer, records in self.by_writer.items():
            seen = since.get(writer)
            for record in reversed(records):
                if record.stream_id <= seen:
                    break
                if self.by_id.get(record.event_id) is record:
                    yield record


class StickyEvents:
    """The sticky events of all rooms; every process has one."""

    def __init__(
        self, database: Database, feed: Feed, clock: Clock, max_in_memory: int = MAX_IN_MEMORY
    ) -> None:
        self._database = database
        self._clock = clock
        self._max_in_memory = max_in_memory
        self._cache: LruCache[None, _Index] = LruCache("sticky_events", max_entries=1)
        self._follower = KeyFollower(self._cache, self._read, self._apply)
        feed.subscribe(EVENTS, self._on_rows)

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
        if len(index.by_room) < len(room_ids):
            return [RoomID(room_id) for room_id in index.by_room if room_id in room_ids]
        return [room_id for room_id in room_ids if room_id in index.by_room]

    async def page(
        self, scope: StickyScope, since: VectorPosition | None, upto: VectorPosition, limit: int
    ) -> StickyPage:
        """Return the first sticky events that a reader has not received yet.

        That are those after `since`, and of new rooms all; without `since`, all of all rooms.
        """
        index = await self._loaded()
        if index.is_complete:
            return _first(_in_memory(index, scope, since), upto, self._clock.now_ms(), limit)
        return await self._stored(scope, since, upto, limit)

    async def _loaded(self) -> "_Index":
        index = await self._follower.get(None)
        if not index.is_complete and self._clock.now_ms() - index.swept_ms > SWEEP_MS:
            self._follower.invalidate(None)
            index = await self._follower.get(None)
        return index

    async def _stored(
        self, scope: StickyScope, since: VectorPosition | None, upto: VectorPosition, limit: int
    ) -> StickyPage:
        now_ms, low = self._clock.now_ms(), _LOWEST
        floor = _LOWEST if since is None else since.floor
        new_rooms = set(scope.new_rooms)
        rooms = [room_id for room_id in scope.rooms() if room_id not in new_rooms]
        found: list[StickyRecord] = []
        for _ in range(MAX_CHUNKS):
            where = StickyRange(rooms, max(low, floor), list(new_rooms), low, upto.most())
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
                return _first(found, upto, now_ms, limit)
            low = records[-1].stream_id
            if len(found) > limit:
                break
        page = _first(found, upto, now_ms, limit)
        return page if page.reached is not None else StickyPage(page.records, upto.capped(low))

    async def _read(self, keys: list[None]) -> Mapping[None, _Index]:
        now_ms = self._clock.now_ms()
        limit = self._max_in_memory + 1
        records = await self._database.read(storage.list_unexpired, now_ms, limit)
        index = _Index(self._max_in_memory, now_ms)
        index.fill(records, now_ms)
        return {None: index}

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if row.sticky_until or row.redaction_applies:
                self._follower.update(None, _Arrival(stream_id, batch.writer, row))

    def _apply(self, index: _Index, arrival: _Arrival) -> _Index:
        stream_id, writer, row = arrival
        if not index.is_complete:
            return index
        if row.redaction_applies and row.redacts is not None:
            index.remove(row.redacts)
        before = index.by_id.get(row.event_id)
        if row.sticky_until and not row.soft_failed:
            if before is None or before.stream_id < stream_id:
                index.remove(row.event_id)
                index.add(
                    StickyRecord(row.event_id, row.room_id, stream_id, writer, row.sticky_until)
                )
            now_ms = self._clock.now_ms()
            is_full = len(index.by_id) > index.max_events
            if is_full or now_ms - index.swept_ms > SWEEP_MS:
                index.fill(index.by_id.values(), now_ms)
        return index


def _in_memory(
    index: _Index, scope: StickyScope, since: VectorPosition | None
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
    found: Iterable[StickyRecord], upto: VectorPosition, now_ms: int, limit: int
) -> StickyPage:
    unique = {
        record.event_id: record
        for record in found
        if record.expires_ms > now_ms and upto.covers(record.writer, record.stream_id)
    }
    records = sorted(unique.values(), key=_stream_id)
    if len(records) <= limit:
        return StickyPage(records, None)
    return StickyPage(records[:limit], upto.capped(records[limit - 1].stream_id))
