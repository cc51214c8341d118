"""LoadSteps of events during state resolution, without I/O in this package.

The generators here yield the IDs of the events they need and are sent those events.
"""

from collections.abc import Generator, Iterable, Mapping, Set
from typing import TypeAlias

import attrs

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.versions import RoomVersion


@attrs.frozen
class LoadedEvents:
    """The requested events, as far as this server has them; it may contain others as well.

    `rejected` contains the IDs of the events among them that this server has rejected.
    """

    events: Mapping[EventID, Event]
    rejected: Set[EventID] = frozenset()


LoadSteps: TypeAlias = Generator[frozenset[EventID], LoadedEvents, None]


@attrs.define
class EventStore:
    """The events loaded so far in one run of state resolution."""

    rules: RoomVersion
    events: dict[EventID, Event] = attrs.field(factory=dict)
    rejected: set[EventID] = attrs.field(factory=set)
    _requested: set[EventID] = attrs.field(factory=set)

    def load(self, event_ids: Iterable[EventID]) -> LoadSteps:
        """Load the events that have not been requested yet."""
        needed = frozenset(
            event_id
            for event_id in event_ids
            if event_id not in self.events and event_id not in self._requested
        )
        if needed:
            self._requested |= needed
            loaded = yield needed
            self.events.update(loaded.events)
            self.rejected |= loaded.rejected

    def load_auth_events(self, events: Iterable[Event]) -> LoadSteps:
        """Load the auth events of events and, in room version 12, the create event."""
        needed: list[EventID] = []
        for event in events:
            needed.extend(event.auth_events)
            if self.rules.room_id_is_create_hash:
                needed.append(EventID("$" + event.room_id[1:]))
        yield from self.load(needed)

    def auth_event(self, event: Event, key: StateKey) -> Event | None:
        """Return the auth event with a state key that an event cites, if it is loaded.

        In room version 12 the create event is the one that the room ID names.
        """
        if key == types.CREATE_KEY and self.rules.room_id_is_create_hash:
            return self.events.get(EventID("$" + event.room_id[1:]))
        for event_id in event.auth_events:
            cited = self.events.get(event_id)
            if cited is not None and (cited.type, cited.state_key) == key:
                return cited
        return None
