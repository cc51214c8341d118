"""The state event that each state event replaced."""

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
class ReplacedState:
    """Looks up replaced state events, many at once."""

    _database: Database
    _events: EventStore
    _states: StateStore

    async def of(self, events: Collection[StoredEvent]) -> dict[EventID, StoredEvent]:
        """Return, for each state event that replaced another, the replaced event."""
        replaced: dict[EventID, EventID] = {}
        unknown: dict[tuple[int, StateKey], list[EventID]] = {}
        for stored in events:
            snapshot_id, state_key = stored.snapshot_id, stored.event.state_key
            if state_key is None or snapshot_id is None or snapshot_id == EMPTY_SNAPSHOT:
                continue
            key = (stored.event.type, state_key)
            state_map = self._states.snapshot_nowait(snapshot_id)
            if state_map is None:
                unknown.setdefault((snapshot_id, key), []).append(stored.event_id)
            elif key in state_map:
                replaced[stored.event_id] = state_map[key]
        if unknown:
            entries = [(snapshot_id, *key) for snapshot_id, key in unknown]
            rows = await self._database.read(timelines.single_entries, entries)
            for snapshot_id, key, event_id in rows:
                for successor in unknown[(snapshot_id, key)]:
                    replaced[successor] = EventID(event_id)
        stored_events = await self._events.get(replaced.values())
        return {
            event_id: stored_events[previous]
            for event_id, previous in replaced.items()
            if previous in stored_events
        }
