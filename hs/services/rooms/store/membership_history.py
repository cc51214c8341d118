"""How users' stays in rooms ended: whoever is out sees a room as it was then, and no later.

Someone who left may be banned, invited or kicked months later; what was said and set in between
is not theirs to see.

Spec: client-server API, Room History Visibility; Syncing, `leave`.
"""

from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_snapshots import StateMap
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

MAX_ENDS: Final = 50_000
MAX_STEPS_BACK: Final = 50


@attrs.frozen(eq=False)
class Stays:
    """Finds the events that ended stays."""

    _events: EventStore
    _states: StateStore
    # By the member event with which someone is out of a room; "" where they never were in it.
    ends: LruCache[EventID, str] = attrs.field(
        factory=lambda: LruCache("left_rooms", max_entries=MAX_ENDS), init=False
    )

    async def end(self, member_event_id: EventID) -> StoredEvent | None:
        """Give the event that ended a user's last stay, as seen from their latest member event.

        None: they never were in the room.
        """
        known = self.ends.get(member_event_id)
        if known is not None:
            return await self._events.get_one(EventID(known)) if known else None
        found = await self._walk_back(member_event_id)
        self.ends.put(member_event_id, found.event_id if found is not None else "")
        return found

    async def state_at_end(self, member_event_id: EventID) -> StateMap:
        """Give the state at the end of the last stay, with the user's latest member event."""
        latest = await self._events.get_one(member_event_id)
        if latest is None:
            return StateMap()
        end = await self.end(member_event_id)
        snapshot_id = None if end is None else end.snapshot_id
        state = StateMap() if snapshot_id is None else await self._states.at_snapshot(snapshot_id)
        return state.set((event_types.MEMBER, latest.event.state_key or ""), member_event_id)

    async def _walk_back(self, event_id: EventID) -> StoredEvent | None:
        stored = await self._events.get_one(event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or stored.snapshot_id is None:
                return None
            key = (event_types.MEMBER, stored.event.state_key or "")
            before = await self._states.of_snapshot(stored.snapshot_id, (key,))
            previous = await self._events.get_one(before[key]) if key in before else None
            if previous is not None and previous.event.content.get("membership") == (
                event_types.JOIN
            ):
                return stored
            stored = previous
        return None
