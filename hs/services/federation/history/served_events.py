"""Events of rooms that other servers ask for: single ones, history, and what they are missing.

Rules:

- The asking server must be in the room; events that it may not see are redacted. One that was in
  the room gets those events that it may see, no others.
- Rejected events and outliers of a room's history are not sent. A walk goes on behind rejected and
  soft-failed events, and ends at outliers.
- A walk follows prev_events, the deepest or the nearest first. Its events are read in advance in
  the order of the history, so it costs few reads.

Spec: server-server API, Backfilling and retrieving missing events; Retrieving events.
"""

import heapq
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal

import attrs

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.history.server_visibility import ServerVisibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import EventStatus, StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import timelines

MAX_BACKFILL: Final = 100
MAX_MISSING: Final = 50
MAX_STARTS: Final = 20  # event IDs in one request
MAX_WALKED: Final = 500
MAX_TIMED: Final = 100

_SERVED: Final = frozenset((EventStatus.ACCEPTED, EventStatus.SOFT_FAILED, EventStatus.HIDDEN))
_LAST: Final = 2**62


@attrs.frozen
class MissingEventsQuery:
    """A request for the events between `earliest` and `latest`, both excluded."""

    room_id: RoomID
    earliest: Sequence[EventID]
    latest: Sequence[EventID]
    limit: int
    min_depth: int


@attrs.frozen
class TimedEventQuery:
    """A request for the event closest to a time, at or after it ("f"), or before it ("b")."""

    room_id: RoomID
    ts: int
    direction: Literal["b", "f"]


@attrs.frozen(eq=False)
class ServedEvents:
    """Reads events for other servers."""

    _database: Database
    _events: EventStore
    _access: ServerAccess
    _visibility: ServerVisibility

    async def event(self, origin: ServerName, event_id: EventID) -> bytes:
        """Return one event. Raises: NotFound, Forbidden."""
        stored = await self._events.get_one(event_id)
        if stored is None or stored.status == EventStatus.REJECTED:
            raise NotFound("Event not found")
        room_id = stored.event.room_id
        pdus = await self._pdus_for(
            await self._access.check_was_in_room(origin, room_id), origin, room_id, (stored,)
        )
        if not pdus:
            raise Forbidden("Your server is not in the room")
        return pdus[0]

    async def backfill(
        self, origin: ServerName, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> list[bytes]:
        """Return events and those before them, the deepest first. Raises: NotFound, Forbidden."""
        is_present = await self._access.check_was_in_room(origin, room_id)
        limit = min(limit, MAX_BACKFILL)
        if limit <= 0:
            raise InvalidParam("limit must be greater than zero")
        starts = await self._in_room(room_id, event_ids)
        walk = _Walk(self._events)
        if starts:
            deepest = max((each.event.depth, each.stream_id) for each in starts)
            # For the cache of events: the walk finds most of them there.
            batch = await self._database.read(
                timelines.newest, room_id, (-1, 0), (deepest[0], _LAST), limit
            )
            await self._events.get(EventID(each.event_id) for each in batch)
        events = await walk.deepest_first(starts, limit)
        return await self._pdus_for(is_present, origin, room_id, events)

    async def missing_events(self, origin: ServerName, query: MissingEventsQuery) -> list[bytes]:
        """Return the events before some events, oldest first. Raises: NotFound, Forbidden."""
        is_present = await self._access.check_was_in_room(origin, query.room_id)
        latest = await self._in_room(query.room_id, query.latest)
        earliest = frozenset(query.earliest)
        starts = [each for each in latest if each.event_id not in earliest]
        limit = max(0, min(query.limit, MAX_MISSING))
        walk = _Walk(self._events, seen={*earliest, *query.latest}, min_depth=query.min_depth)
        events = await walk.nearest_first(starts, limit)
        # Events that cite each other in a batch are received in the order of their depths anyway.
        events.sort(key=lambda stored: (stored.event.depth, stored.stream_id))
        return await self._pdus_for(is_present, origin, query.room_id, events)

    async def at_time(self, origin: ServerName, query: TimedEventQuery) -> tuple[EventID, int]:
        """Return the ID and timestamp of the closest event that a server may see.

        Raises: NotFound, Forbidden.
        """
        await self._access.check_in_room(origin, query.room_id)
        ts = max(-_LAST, min(_LAST, query.ts))
        forwards = query.direction == "f"
        read = timelines.after_time if forwards else timelines.before_time
        position = (ts, -_LAST if forwards else _LAST)
        batch = await self._database.read(read, query.room_id, position, MAX_TIMED)
        stored = await self._events.get(EventID(each.event_id) for each in batch)
        visible = await self._visibility.visible_ids(origin, query.room_id, stored.values())
        for event_id in stored:
            if event_id in visible:
                return event_id, stored[event_id].event.origin_server_ts
        raise NotFound(f"Unable to find event from {query.ts} in direction {query.direction}")

    async def _pdus_for(
        self,
        is_present: bool,
        origin: ServerName,
        room_id: RoomID,
        events: Sequence[StoredEvent],
    ) -> list[bytes]:
        if is_present:
            return await self._visibility.pdus_for(origin, room_id, events)
        return await self._visibility.pdus_for_departed(origin, room_id, events)

    async def _in_room(self, room_id: RoomID, event_ids: Collection[EventID]) -> list[StoredEvent]:
        if len(event_ids) > MAX_STARTS:
            raise InvalidParam(f"At most {MAX_STARTS} event IDs are allowed")
        stored = await self._events.get(event_ids)
        return [each for each in stored.values() if each.event.room_id == room_id]


@attrs.define(eq=False)
class _Walk:
    """A walk along prev_events; `seen` are event IDs that it does not visit again."""

    _events: EventStore
    seen: set[EventID] = attrs.Factory(set)
    min_depth: int = 0
    _walked: int = 0

    async def deepest_first(self, starts: Iterable[StoredEvent], limit: int) -> list[StoredEvent]:
        """Return up to `limit` events, the starts included, the deepest first."""
        found: list[StoredEvent] = []
        heap = [_deepest(stored) for stored in starts]
        self.seen.update(stored.event_id for *_, stored in heap)
        heapq.heapify(heap)
        while heap and len(found) < limit and self._walked < MAX_WALKED:
            *_, stored = heapq.heappop(heap)
            if stored.status in _SERVED:
                found.append(stored)
            for previous in await self._before([stored]):
                heapq.heappush(heap, _deepest(previous))
        return found

    async def nearest_first(self, starts: Sequence[StoredEvent], limit: int) -> list[StoredEvent]:
        """Return up to `limit` events before the starts, breadth first."""
        found: list[StoredEvent] = []
        generation = starts
        while generation and len(found) < limit and self._walked < MAX_WALKED:
            generation = await self._before(generation)
            found.extend(stored for stored in generation if stored.status in _SERVED)
        return found[:limit]

    async def _before(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        """Return the events before others that were not seen yet."""
        self._walked += len(events)
        new = {
            previous: None
            for stored in events
            if stored.status != EventStatus.OUTLIER
            for previous in stored.event.prev_events
            if previous not in self.seen
        }
        self.seen.update(new)
        if not new:
            return []
        room_id = events[0].event.room_id
        return [
            stored
            for stored in (await self._events.get(new)).values()
            if stored.event.room_id == room_id
            and stored.status != EventStatus.OUTLIER
            and stored.event.depth >= self.min_depth
        ]


def _deepest(stored: StoredEvent) -> tuple[int, int, EventID, StoredEvent]:
    return (-stored.event.depth, -stored.stream_id, stored.event_id, stored)
