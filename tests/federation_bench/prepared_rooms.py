"""Rooms of stand-in servers, whose events are signed before anything is measured."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import orjson

from hs.core.auth.selection import auth_types_for_event
from hs.core.events.build import EventDraft, GraphPosition, build_event
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName, UserID, server_of
from hs.core.versions import ROOM_VERSIONS, RoomVersion
from tests.support.peers import signer_of

BEGAN_MS = 1_790_000_000_000
_NUMBERS: Iterator[int] = itertools.count()


@attrs.define(eq=False)
class PreparedRoom:
    """A room without forks: its current state, and the event at its end."""

    rules: RoomVersion
    room_id: RoomID | None
    state: dict[StateKey, Event] = attrs.Factory(dict)
    end: Event | None = None
    answer: bytes = b""

    def add(
        self,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
    ) -> Event:
        """Add an event at the end of the room."""
        event = self.build(sender, event_type, content, state_key)
        self._append(event)
        return event

    def build(
        self,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
    ) -> Event:
        """Build an event that follows the end of the room, without adding it."""
        return self._sign(EventDraft(event_type, sender, content, state_key))

    def build_after(self, sender: UserID, ends: Sequence[Event], body: str) -> Event:
        """Build a message that follows several events, without adding it."""
        return self._sign(EventDraft("m.room.message", sender, {"body": body}), ends)

    def join_template(self, user_id: UserID) -> dict[str, Any]:
        """Return the answer to `make_join`."""
        draft = EventDraft("m.room.member", user_id, {"membership": "join"}, user_id)
        place = self._place(draft)
        event = {
            "type": draft.type,
            "sender": user_id,
            "state_key": user_id,
            "content": draft.content,
            "room_id": self.room_id,
            "prev_events": place.prev_events,
            "auth_events": place.auth_events,
            "depth": place.depth,
            "origin": server_of(user_id),
            "origin_server_ts": place.origin_server_ts,
        }
        return {"room_version": self.rules.identifier, "event": event}

    def prepare_answer(self, origin: ServerName) -> None:
        """Encode the state, which is what `send_join` answers."""
        state = [event.pdu for event in self.state.values()]
        cited = {event_id for event in self.state.values() for event_id in event.auth_events}
        chain = [event.pdu for event in self.state.values() if event.event_id in cited]
        answer = {"state": state, "auth_chain": chain, "origin": origin, "members_omitted": False}
        self.answer = orjson.dumps(answer)[:-1]

    def accept_join(self, body: bytes) -> bytes:
        """Add a join that was sent to `send_join`, and return the answer."""
        self._append(parse_pdu(orjson.loads(body), self.rules))
        return self.answer + b',"event":' + body + b"}"

    def _append(self, event: Event) -> None:
        if event.state_key is not None:
            self.state[event.type, event.state_key] = event
        self.end = event
        self.room_id = event.room_id

    def _sign(self, draft: EventDraft, ends: Sequence[Event] | None = None) -> Event:
        place = self._place(draft)
        if ends is not None:
            place = attrs.evolve(place, prev_events=[end.event_id for end in ends])
        signer = signer_of(ServerName(server_of(draft.sender)))
        return build_event(draft, place, self.rules, signer)

    def _place(self, draft: EventDraft) -> GraphPosition:
        keys = auth_types_for_event(
            self.rules, draft.type, draft.sender, draft.state_key, draft.content
        )
        prev_events: list[EventID] = [] if self.end is None else [self.end.event_id]
        return GraphPosition(
            room_id=self.room_id,
            prev_events=prev_events,
            auth_events=[self.state[key].event_id for key in keys if key in self.state],
            depth=1 if self.end is None else self.end.depth + 1,
            origin_server_ts=BEGAN_MS + next(_NUMBERS),
        )


def member_content(number: int) -> dict[str, Any]:
    """Return the content of a member event as clients write it."""
    return {
        "membership": "join",
        "displayname": f"Member {number}",
        "avatar_url": f"mxc://example.org/{number:024d}",
    }


def users_of(server: str, count: int) -> list[UserID]:
    """Return users of a server."""
    return [UserID(f"@member{number}:{server}") for number in range(count)]


def prepare_room(version: str, members: Sequence[UserID]) -> PreparedRoom:
    """Create a public room with members; the first of them is its creator."""
    creator = members[0]
    rules = ROOM_VERSIONS[version]
    name = None
    if not rules.room_id_is_create_hash:
        name = RoomID(f"!bench{next(_NUMBERS)}:{server_of(creator)}")
    room = PreparedRoom(rules, name)
    room.add(creator, "m.room.create", {"room_version": version, "creator": creator}, "")
    room.add(creator, "m.room.member", member_content(0), creator)
    users = {} if rules.privileged_creators else {creator: 100}
    room.add(creator, "m.room.power_levels", {"users": users}, "")
    room.add(creator, "m.room.join_rules", {"join_rule": "public"}, "")
    room.add(creator, "m.room.history_visibility", {"history_visibility": "shared"}, "")
    for number, member in enumerate(members[1:], 1):
        room.add(member, "m.room.member", member_content(number), member)
    return room
