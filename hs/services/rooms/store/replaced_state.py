"""Which state event each state event took the place of."""

from collections.abc import Collection

import attrs

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import timelines
from hs.storage.rooms.state import EMPTY_SNAPSHOT


@attrs.frozen(eq=False)
class PreviousStates:
    """Looks state up before events, many at once."""

    _database: Database
    _events: EventStore
    _states: StateStore

    async def of(self, events: Collection[StoredEvent]) -> dict[EventID, StoredEvent]:
        """Give, for those state events that replaced another, the one replaced."""
        replaced: dict[EventID, EventID] = {}
        unread: dict[tuple[int, StateKey], list[EventID]] = {}
        for stored in events:
            snapshot_id, state_key = stored.snapshot_id, stored.event.state_key
            if state_key is None or snapshot_id is None or snapshot_id == EMPTY_SNAPSHOT:
                continue
            key = (stored.event.type, state_key)
            state_map = self._states.snapshot_nowait(snapshot_id)
            if state_map is None:
                unread.setdefault((snapshot_id, key), []).append(stored.event_id)
            elif key in state_map:
                replaced[stored.event_id] = state_map[key]
        if unread:
            places = [(snapshot_id, *key) for snapshot_id, key in unread]
            rows = await self._database.read(timelines.single_entries, places)
            for snapshot_id, key, event_id in rows:
                for successor in unread[(snapshot_id, key)]:
                    replaced[successor] = EventID(event_id)
        before = await self._events.get(replaced.values())
        return {
            event_id: before[previous]
            for event_id, previous in replaced.items()
            if previous in before
        }
