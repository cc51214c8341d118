"""The iterative auth checks algorithm.

Spec: rooms/v2, State resolution, Definitions.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

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
from hs.core.stateres.loading import EventStore, LoadSteps


@attrs.define
class PartialState:
    """The partially resolved state: `changes` over `base`."""

    base: StateMap
    store: EventStore
    changes: dict[StateKey, EventID] = attrs.field(factory=dict)
    _power: dict[tuple[EventID | None, EventID], PowerLevels] = attrs.field(factory=dict)

    def get(self, key: StateKey) -> EventID | None:
        """Return the ID of the event that the state has for a key."""
        return self.changes.get(key) or self.base.get(key)

    def event(self, key: StateKey) -> Event | None:
        """Return the event that the state has for a key, if it is loaded."""
        event_id = self.get(key)
        return None if event_id is None else self.store.events.get(event_id)

    def load_for(self, events: Sequence[Event]) -> LoadSteps:
        """Load all events that checking the given events may read."""
        yield from self.store.load_auth_events(events)
        yield from self.store.load(self._current(map(needed_keys, events)))

    def try_in_order(self, events: Sequence[Event]) -> LoadSteps:
        """Apply the events that are allowed, in the given order; ignore the others."""
        keys = {event.event_id: needed_keys(event) for event in events}
        yield from self.store.load_auth_events(events)
        yield from self.store.load(self._current(keys.values()))
        for event in events:
            if event.state_key is not None and self.allows(
                event, self._auth_state_with_cited(event, keys[event.event_id])
            ):
                self.changes[event.type, event.state_key] = event.event_id

    def _current(self, keys: Iterable[Iterable[StateKey]]) -> list[EventID]:
        current = map(self.get, dict.fromkeys(chain.from_iterable(keys)))
        return [event_id for event_id in current if event_id is not None]

    def allows(self, event: Event, auth_state: Mapping[StateKey, Event]) -> bool:
        """Return whether the authorisation rules allow an event in a state."""
        try:
            check_auth(event, auth_state, self._power_in(auth_state))
        except Forbidden:
            return False
        return True

    def auth_state_for(self, event: Event) -> dict[StateKey, Event]:
        """Return the events of this state that checking an event reads."""
        current = ((key, self.event(key)) for key in needed_keys(event))
        return {key: state_event for key, state_event in current if state_event is not None}

    def _auth_state_with_cited(
        self, event: Event, keys: Iterable[StateKey]
    ) -> dict[StateKey, Event]:
        """Return the state to check an event against.

        For keys that this state lacks, the event's own auth events are used unless rejected.
        """
        auth_state: dict[StateKey, Event] = {}
        for key in keys:
            if self.get(key) is not None:
                state_event = self.event(key)
            else:
                state_event = self.store.auth_event(event, key)
                if state_event is not None and state_event.event_id in self.store.rejected:
                    state_event = None
            if state_event is not None:
                auth_state[key] = state_event
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
    """Return the state keys that checking an event reads."""
    return auth_state_types(event.rules, event.type, event.sender, event.state_key, event.content)
