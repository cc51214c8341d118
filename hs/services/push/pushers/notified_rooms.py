"""What notifications show of rooms: their state, or that in invites to rooms of other servers."""

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import RoomID, UserID
from hs.services.rooms.read.invite_state import InviteStates
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore


@attrs.frozen(eq=False)
class NotifiedRooms:
    """Reads the state that notifications show."""

    _events: EventStore
    _states: StateStore
    _invites: InviteStates

    async def contents(
        self, room_id: RoomID, user_id: UserID, keys: Collection[StateKey]
    ) -> Mapping[StateKey, Mapping[str, Any]]:
        """Return contents of state events; of a room of other servers, those in a user's invite."""
        event_ids = await self._states.current_of_keys(room_id, (*keys, event_types.CREATE_KEY))
        if not event_ids:
            stripped = await self._invites.invite_state(room_id, user_id)
            return {(each["type"], each["state_key"]): each["content"] for each in stripped}
        events = await self._events.get(event_ids.values())
        return {
            key: events[event_id].event.content
            for key, event_id in event_ids.items()
            if event_id in events
        }

    async def text(self, room_id: RoomID, user_id: UserID, key: StateKey, field: str) -> str:
        """Return a text in the content of a state event; empty if there is none."""
        value = (await self.contents(room_id, user_id, [key])).get(key, {}).get(field)
        return value if isinstance(value, str) else ""
