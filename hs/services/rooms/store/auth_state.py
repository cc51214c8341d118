"""The auth state of a room: the few entries of its current state that permissions depend on."""

from collections.abc import Collection, Mapping

import attrs

from hs.core.auth.member_rules import join_rule_in, membership_in
from hs.core.auth.power_levels import PowerLevels, power_levels_in
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import RoomID, UserID
from hs.core.versions import RoomVersion
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore

GUEST_ACCESS_KEY = (event_types.GUEST_ACCESS, "")
HISTORY_VISIBILITY_KEY = (event_types.HISTORY_VISIBILITY, "")

_ALWAYS = (
    event_types.CREATE_KEY,
    event_types.POWER_LEVELS_KEY,
    event_types.JOIN_RULES_KEY,
)


@attrs.frozen(eq=False)
class AuthState:
    """A part of a room's current state; redacted events in their redacted form."""

    room_id: RoomID
    events: Mapping[StateKey, Event]

    @property
    def create(self) -> Event:
        """The create event."""
        return self.events[event_types.CREATE_KEY]

    @property
    def rules(self) -> RoomVersion:
        """Rules of the room's version."""
        return self.create.rules

    @property
    def power(self) -> PowerLevels:
        """Power levels."""
        return power_levels_in(self.events)

    @property
    def join_rule(self) -> str:
        """Join rule."""
        return join_rule_in(self.events)

    def membership(self, user_id: UserID) -> str | None:
        """Return the membership of one of the users passed to `read`."""
        return membership_in(self.events, user_id)

    def text(self, event_type: str, field: str) -> str | None:
        """Return a string from the content of an event that was read, with the empty state key."""
        event = self.events.get((event_type, ""))
        value = None if event is None else event.content.get(field)
        return value if isinstance(value, str) else None

    def may_send_state(self, user_id: UserID, event_type: str) -> bool:
        """Return whether a user passed to `read` is joined and may send this state event type."""
        joined = self.membership(user_id) == event_types.JOIN
        return joined and self.power.may_send(user_id, event_type, "")


@attrs.frozen(eq=False)
class AuthStateReader:
    """Reads the auth state of rooms."""

    _states: StateStore
    _events: EventStore

    async def read(
        self,
        room_id: RoomID,
        *,
        members: Collection[UserID] = (),
        more: Collection[StateKey] = (),
    ) -> AuthState | None:
        """Read a room's auth state; None if this server has no state of the room.

        Always contains the create event, power levels and join rules; `members` and `more` name
        further entries.
        """
        keys = [*_ALWAYS, *((event_types.MEMBER, user_id) for user_id in members), *more]
        event_ids = await self._states.current_of_keys(room_id, keys)
        if event_types.CREATE_KEY not in event_ids:
            return None
        stored = await self._events.get(event_ids.values())
        events: dict[StateKey, Event] = {}
        for key, event_id in event_ids.items():
            if event_id in stored:
                events[key] = stored[event_id].effective_event
        return AuthState(room_id, events) if event_types.CREATE_KEY in events else None
