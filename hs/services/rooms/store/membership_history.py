"""Membership history: which event ended a user's last membership of a room.

A user who left sees the room as it was when they left. They may be banned, invited or kicked months
later, but must not see what was sent in between. So the event that counts is not their latest
member event but the first one that followed a join.

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

MAX_CACHED: Final = 50_000
MAX_STEPS_BACK: Final = 50


@attrs.frozen(eq=False)
class MembershipHistory:
    """Finds the events with which users left rooms."""

    _events: EventStore
    _states: StateStore
    # Maps a user's latest member event to the event that ended their last join; "" if none did.
    cache: LruCache[EventID, str] = attrs.field(
        factory=lambda: LruCache("left_rooms", max_entries=MAX_CACHED), init=False
    )

    async def last_end(self, member_event_id: EventID) -> StoredEvent | None:
        """Return the event that ended a user's last join, given their latest member event.

        None if the user never joined the room.
        """
        cached = self.cache.get(member_event_id)
        if cached is not None:
            return await self._events.get_one(EventID(cached)) if cached else None
        ending = await self._walk_back(member_event_id)
        self.cache.put(member_event_id, ending.event_id if ending is not None else "")
        return ending

    async def state_at_end(self, member_event_id: EventID) -> StateMap:
        """Return the state when the user left, but with their latest member event."""
        latest = await self._events.get_one(member_event_id)
        if latest is None:
            return StateMap()
        ending = await self.last_end(member_event_id)
        snapshot_id = None if ending is None else ending.snapshot_id
        state = StateMap() if snapshot_id is None else await self._states.at_snapshot(snapshot_id)
        return state.set((event_types.MEMBER, latest.event.state_key or ""), member_event_id)

    async def _walk_back(self, event_id: EventID) -> StoredEvent | None:
        stored = await self._events.get_one(event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None:
                return None
            previous = await self._states.replaced_event(stored)
            if previous is not None and previous.event.content.get("membership") == (
                event_types.JOIN
            ):
                return stored
            stored = previous
        return None
