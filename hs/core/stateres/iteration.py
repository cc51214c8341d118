"""Trying events in order: what the authorisation rules allow becomes part of the state.

Spec: rooms/v2, State resolution, Iterative auth checks.
"""

from collections.abc import Mapping, Sequence

import attrs

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_state_types
from hs.core.errors import Forbidden
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.conflict import StateMap
from hs.core.stateres.loading import EventStore, Loading


@attrs.define
class PartialState:
    """The state as resolved so far: `changes` over `base`."""

    base: StateMap
    store: EventStore
    changes: dict[StateKey, EventID] = attrs.field(factory=dict)
    _power: dict[tuple[EventID | None, EventID], PowerLevels] = attrs.field(factory=dict)

    def get(self, key: StateKey) -> EventID | None:
        """Give the ID of the event that has a key."""
        return self.changes.get(key) or self.base.get(key)

    def event(self, key: StateKey) -> Event | None:
        """Give the event that has a key, if it is loaded."""
        event_id = self.get(key)
        return None if event_id is None else self.store.events.get(event_id)

    def load_for(self, events: Sequence[Event]) -> Loading:
        """Ask for everything that checking events may look at."""
        yield from self.store.load_auth_events(events)
        held = {self.get(key) for event in events for key in needed_keys(event)}
        yield from self.store.load(event_id for event_id in held if event_id is not None)

    def try_in_order(self, events: Sequence[Event]) -> Loading:
        """Apply each event that is allowed; ignore the others."""
        yield from self.load_for(events)
        for event in events:
            if event.state_key is not None and self.allows(event, self._auth_state(event)):
                self.changes[event.type, event.state_key] = event.event_id

    def allows(self, event: Event, auth_state: Mapping[StateKey, Event]) -> bool:
        """Tell whether the authorisation rules allow an event in a state."""
        try:
            check_auth(event, auth_state, self._power_in(auth_state))
        except Forbidden:
            return False
        return True

    def held(self, event: Event) -> dict[StateKey, Event]:
        """Give what this state has of the keys that checking an event looks at."""
        found = ((key, self.event(key)) for key in needed_keys(event))
        return {key: holder for key, holder in found if holder is not None}

    def _auth_state(self, event: Event) -> dict[StateKey, Event]:
        auth_state = self.held(event)
        for key in needed_keys(event):
            if self.get(key) is None:
                cited = self.store.auth_event(event, key)
                if cited is not None and cited.event_id not in self.store.rejected:
                    auth_state[key] = cited
        return auth_state

    def _power_in(self, auth_state: Mapping[StateKey, Event]) -> PowerLevels | None:
        create = auth_state.get(types.CREATE_KEY)
        if create is None:
            return None
        levels = auth_state.get(types.POWER_LEVELS_KEY)
        key = (None if levels is None else levels.event_id, create.event_id)
        power = self._power.get(key)
        if power is None:
            power = self._power[key] = PowerLevels.of(levels, create, self.store.rules)
        return power


def needed_keys(event: Event) -> list[StateKey]:
    """List the state keys that checking an event looks at."""
    return auth_state_types(event.rules, event.type, event.sender, event.state_key, event.content)
