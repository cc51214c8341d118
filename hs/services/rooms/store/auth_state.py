"""The few events of a room's current state that decide who may do what, read for one question."""

from collections.abc import Collection, Mapping

import attrs

from hs.core.auth.member_rules import join_rule_in, membership_in
from hs.core.auth.power_levels import PowerLevels, power_levels_in
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.redaction import redact
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
class Deciding:
    """Part of a room's current state, redacted events as they are seen."""

    room_id: RoomID
    events: Mapping[StateKey, Event]

    @property
    def create(self) -> Event:
        """Give the create event."""
        return self.events[event_types.CREATE_KEY]

    @property
    def rules(self) -> RoomVersion:
        """Give the rules of the room's version."""
        return self.create.rules

    @property
    def power(self) -> PowerLevels:
        """Give the power levels."""
        return power_levels_in(self.events)

    @property
    def join_rule(self) -> str:
        """Give the join rule."""
        return join_rule_in(self.events)

    def membership(self, user_id: UserID) -> str | None:
        """Give the membership of a user who was asked for."""
        return membership_in(self.events, user_id)

    def text(self, event_type: str, field: str) -> str | None:
        """Give a text of an event that was asked for, with the empty state key."""
        event = self.events.get((event_type, ""))
        value = None if event is None else event.content.get(field)
        return value if isinstance(value, str) else None

    def may_send_state(self, user_id: UserID, event_type: str) -> bool:
        """Tell whether a member who was asked for may set a type of state."""
        joined = self.membership(user_id) == event_types.JOIN
        return joined and self.power.may_send(user_id, event_type, "")


@attrs.frozen(eq=False)
class DecidingReader:
    """Reads parts of rooms' current state."""

    _states: StateStore
    _events: EventStore

    async def read(
        self,
        room_id: RoomID,
        *,
        members: Collection[UserID] = (),
        more: Collection[StateKey] = (),
    ) -> Deciding | None:
        """Read what decides in a room; None for a room without state here."""
        keys = [*_ALWAYS, *((event_types.MEMBER, one) for one in members), *more]
        found = await self._states.current_of_keys(room_id, keys)
        if event_types.CREATE_KEY not in found:
            return None
        stored = await self._events.get(found.values())
        events: dict[StateKey, Event] = {}
        for key, event_id in found.items():
            one = stored.get(event_id)
            if one is not None:
                events[key] = one.event if one.redacted_by is None else redact(one.event)
        return Deciding(room_id, events) if event_types.CREATE_KEY in events else None
