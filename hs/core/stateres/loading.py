"""How resolution asks for events without waiting: it yields IDs and is sent what was found."""

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
    """Events that were asked for, as far as they are known; more than was asked does no harm.

    `rejected` names those among them that this server has rejected.
    """

    events: Mapping[EventID, Event]
    rejected: Set[EventID] = frozenset()


Loading: TypeAlias = Generator[frozenset[EventID], LoadedEvents, None]


@attrs.define
class EventStore:
    """The events loaded so far in one resolution."""

    rules: RoomVersion
    events: dict[EventID, Event] = attrs.field(factory=dict)
    rejected: set[EventID] = attrs.field(factory=set)
    _asked: set[EventID] = attrs.field(factory=set)

    def load(self, event_ids: Iterable[EventID]) -> Loading:
        """Ask for events that have not been asked for yet."""
        needed = frozenset(
            each for each in event_ids if each not in self.events and each not in self._asked
        )
        if needed:
            self._asked |= needed
            loaded = yield needed
            self.events.update(loaded.events)
            self.rejected |= loaded.rejected

    def load_auth_events(self, events: Iterable[Event]) -> Loading:
        """Ask for the auth events of events, and for the create event that some do not cite."""
        needed: list[EventID] = []
        for event in events:
            needed.extend(event.auth_events)
            if self.rules.room_id_is_create_hash:
                needed.append(EventID("$" + event.room_id[1:]))
        yield from self.load(needed)

    def auth_event(self, event: Event, key: StateKey) -> Event | None:
        """Give the auth event of an event that has a state key.

        In room version 12 the room ID stands for the create event.
        """
        if key == types.CREATE_KEY and self.rules.room_id_is_create_hash:
            return self.events.get(EventID("$" + event.room_id[1:]))
        for event_id in event.auth_events:
            cited = self.events.get(event_id)
            if cited is not None and (cited.type, cited.state_key) == key:
                return cited
        return None
