"""What a malicious server knows of a room: as much as an honest one."""

from typing import Any, Final

import attrs

from hs.core.auth.rules import check_auth
from hs.core.errors import Forbidden, InvalidEvent
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.versions import ROOM_VERSIONS
from tests.support.peers import History

NAME: Final = ServerName("mallory.example")
USER: Final = UserID("@mallory:mallory.example")
EVIL_BODY: Final = "this must not be shown"


@attrs.define(eq=False)
class EvilRoom:
    """What the malicious server knows of a room."""

    room_id: RoomID
    history: History
    servers: list[ServerName]
    tips: list[EventID] = attrs.Factory(list)  # accepted events whose state is known
    rejected: set[EventID] = attrs.Factory(set)
    withheld: set[EventID] = attrs.Factory(set)
    others: dict[EventID, Event] = attrs.Factory(dict)  # events after a gap

    def learn(self, pdu: Any) -> None:
        """Add an event that another server has sent."""
        rules = ROOM_VERSIONS[self.history.version]
        try:
            event = parse_pdu(pdu, rules)
        except InvalidEvent:
            return
        if (
            not event.prev_events
            or event.event_id in self.history.states
            or event.event_id in self.others
        ):
            return
        self.others[event.event_id] = event
        while complete := [each for each in self.others.values() if not self.gap_before(each)]:
            for each in complete:
                del self.others[each.event_id]
                self.add(each)

    def gap_before(self, event: Event) -> list[EventID]:
        """Return the prev_events that are not known."""
        return [each for each in event.prev_events if each not in self.history.states]

    def add(self, event: Event) -> None:
        """Add an event whose prev_events are known."""
        is_rejected = not self.is_allowed(event)
        self.history.keep(event, rejected=is_rejected)
        if is_rejected:
            self.rejected.add(event.event_id)
        else:
            self.tips = [each for each in self.tips if each not in event.prev_events]
            self.tips.append(event.event_id)

    def is_allowed(self, event: Event) -> bool:
        """Return whether the state before an event, and its auth events, allow it."""
        history = self.history
        if any(each in self.rejected for each in event.auth_events):
            return False
        before = history.before(event.prev_events)
        cited = [history.events[each] for each in event.auth_events if each in history.events]
        states = (
            {key: history.events[each] for key, each in before.items()},
            {(each.type, each.state_key or ""): each for each in cited},
        )
        if event.rules.room_id_is_create_hash:
            create = ("m.room.create", "")
            states[1][create] = states[0][create]
        try:
            for state in states:
                check_auth(event, state)
        except Forbidden:
            return False
        return True

    def chain_of(self, event_ids: list[EventID]) -> dict[EventID, Event]:
        """Return the auth chain of events."""
        chain: dict[EventID, Event] = {}
        unvisited = [self.history.events[each] for each in event_ids]
        while unvisited:
            for cited in unvisited.pop().auth_events:
                if cited not in chain and cited in self.history.events:
                    chain[cited] = self.history.events[cited]
                    unvisited.append(chain[cited])
        return chain
