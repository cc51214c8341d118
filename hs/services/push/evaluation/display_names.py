"""Display names of members in rooms, in memory for the push rules that read them."""

from collections.abc import Collection
from typing import Final

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.services.push.evaluation.event_context import cached
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore

MAX_NAMES: Final = 50_000


class DisplayNames:
    """Display names by room and user; None for a member without one."""

    def __init__(self, states: StateStore, events: EventStore) -> None:
        self._states = states
        self._events = events
        self._names: LruCache[tuple[RoomID, UserID], str | None] = LruCache(
            "push_display_names", max_entries=MAX_NAMES
        )

    def of_nowait(self, room_id: RoomID, user_id: UserID) -> str | None:
        """Return a member's display name. Raises: NotInMemory."""
        return cached(self._names, (room_id, user_id))

    async def load(self, room_id: RoomID, user_ids: Collection[UserID]) -> dict[UserID, str | None]:
        """Return the display names of members, reading those that are not in memory."""
        known = self._names.get_cached([(room_id, user_id) for user_id in user_ids])
        names = {user_id: name for (_, user_id), name in known.items()}
        keys = [(event_types.MEMBER, user_id) for user_id in user_ids if user_id not in names]
        event_ids = await self._states.current_of_keys(room_id, keys)
        events = await self._events.get(event_ids.values())
        for key in keys:
            stored = events.get(event_ids[key]) if key in event_ids else None
            name = None if stored is None else _name_in(stored.event)
            names[UserID(key[1])] = name
            self._names.put((room_id, UserID(key[1])), name)
        return names

    def update(self, event: Event) -> None:
        """Replace a name in memory by that of a new member event; other events change nothing."""
        if event.type != event_types.MEMBER or event.state_key is None:
            return
        key = (event.room_id, UserID(event.state_key))
        if key in self._names:
            self._names.put(key, _name_in(event))


def _name_in(event: Event) -> str | None:
    name = event.content.get("displayname")
    return name if isinstance(name, str) else None
