"""The search for the event closest to a timestamp.

At most MAX_PASSES batches of growing size are read. Then other servers are asked, if the event may
be in a gap of the stored history.

Spec: client-server API, `/timestamp_to_event`.
"""

from typing import Final

import attrs

from hs.core.errors import NotFound
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.rooms.read.older_history import OlderHistory, TimeQuery
from hs.services.rooms.read.pagination import HISTORY_END
from hs.services.rooms.read.timelines import MAX_LIMIT, MAX_PASSES, Direction
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import timelines

FIRST_BATCH: Final = 10
_MAX_TS: Final = 2**60


@attrs.frozen
class EventByTime:
    """The event closest to a timestamp."""

    event_id: EventID
    origin_server_ts: int


@attrs.frozen(eq=False)
class TimestampSearch:
    """Finds events by timestamp."""

    _database: Database
    _events: EventStore
    _visibility: Visibility
    _older: OlderHistory

    async def closest_event(
        self, requester: Requester, room_id: RoomID, ts: int, direction: Direction
    ) -> EventByTime:
        """Return the visible event closest to a timestamp, at or after it ("f"), or before it.

        Raises: Forbidden, NotFound.
        """
        await self._visibility.check_may_read(requester.user_id, room_id)
        ts = max(-_MAX_TS, min(_MAX_TS, ts))
        stored = await self._closest_stored(requester, room_id, ts, direction)
        time_query = TimeQuery(room_id, ts, direction)
        if stored is not None:
            depth, found_ts = stored.event.depth, stored.event.origin_server_ts
            time_query = attrs.evolve(time_query, depth=depth, found_ts=found_ts)
        closer_id = await self._older.find_closer(time_query)
        closer = None if closer_id is None else await self._events.get_one(closer_id)
        if (
            closer is not None
            and time_query.is_closer(closer.event.origin_server_ts)
            and await self._visibility.filter_one(requester.user_id, closer) is not None
        ):
            stored = closer
        if stored is None:
            raise NotFound(f"Unable to find event from {ts} in direction {direction}")
        return EventByTime(stored.event_id, stored.event.origin_server_ts)

    async def _closest_stored(
        self, requester: Requester, room_id: RoomID, ts: int, direction: Direction
    ) -> StoredEvent | None:
        read = timelines.after_time if direction == "f" else timelines.before_time
        # All events of the time itself are candidates, also those from before our stream.
        position = (ts, -HISTORY_END[1] if direction == "f" else HISTORY_END[1])
        size = FIRST_BATCH
        for _ in range(MAX_PASSES):
            batch = await self._database.read(read, room_id, position, size)
            events = await self._events.get(EventID(each.event_id) for each in batch)
            seen = await self._visibility.filter_visible(requester.user_id, list(events.values()))
            if seen:
                return seen[0].stored
            if len(batch) < size:
                break
            position = (batch[-1].origin_server_ts, batch[-1].stream_id)
            size = min(MAX_LIMIT, 8 * size)
        return None
