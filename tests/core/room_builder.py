"""A room of real signed events, each checked by the authorisation rules as it is added."""

from collections.abc import Mapping
from typing import Any

from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_types_for_event, check_auth_events_selection
from hs.core.events import types
from hs.core.events.build import EventDraft, GraphPosition, build_event
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.hashes import reference_hash
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.signing.keys import Signer, SigningKey
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import ROOM_VERSIONS

ALICE = UserID("@alice:one.example")
BOB = UserID("@bob:two.example")
CAROL = UserID("@carol:three.example")

SIGNER = Signer(ServerName("one.example"), SigningKey.from_seed("key", bytes(range(32))))


class Room:
    """A room with its state; `add` appends an event, `draft` only builds one."""

    def __init__(self, version: str) -> None:
        self.rules = ROOM_VERSIONS[version]
        self.state: dict[StateKey, Event] = {}
        self.events: list[Event] = []
        self.room_id: RoomID | None = None
        if not self.rules.room_id_is_create_hash:
            self.room_id = RoomID("!room:one.example")

    def draft(
        self,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        redacts: EventID | None = None,
    ) -> Event:
        """Build the next event without checking it."""
        keys = auth_types_for_event(self.rules, event_type, sender, state_key, content)
        cited = [self.state[key].event_id for key in keys if key in self.state]
        number = len(self.events)
        place = GraphPosition(
            room_id=self.room_id,
            prev_events=[event.event_id for event in self.events[-1:]],
            auth_events=cited,
            depth=number + 1,
            origin_server_ts=1_700_000_000_000 + number,
            event_id=None if self.rules.event_id_is_hash else EventID(f"${number}:one.example"),
            reference_hashes={
                event.event_id: encode_base64(reference_hash(event.pdu, self.rules))
                for event in self.events
            },
        )
        draft = EventDraft(event_type, sender, content, state_key, redacts)
        return build_event(draft, place, self.rules, SIGNER)

    def add(
        self,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        redacts: EventID | None = None,
    ) -> Event:
        """Build the next event, check it as another server would, and apply it to the state."""
        event = self.draft(sender, event_type, content, state_key, redacts)
        by_id = {known.event_id: known for known in self.events}
        check_auth_events_selection(event, [by_id[cited] for cited in event.auth_events])
        check_auth(event, self.state)
        self.events.append(event)
        self.room_id = event.room_id
        if event.state_key is not None:
            self.state[event.type, event.state_key] = event
        return event

    def member(self, sender: UserID, target: UserID, membership: str, **more: Any) -> Event:
        """Change a membership."""
        content = {"membership": membership, **more}
        return self.add(sender, types.MEMBER, content, target)

    def join_rule(self, rule: str) -> Event:
        """Set the join rule as Alice."""
        return self.add(ALICE, types.JOIN_RULES, {"join_rule": rule}, "")

    def levels(self, sender: UserID = ALICE, **content: Any) -> Event:
        """Set the power levels."""
        return self.add(sender, types.POWER_LEVELS, content, "")


def new_room(version: str, rule: str = types.RULE_PUBLIC, /, **create: Any) -> Room:
    """Create a room as Alice, with power levels and a join rule."""
    room = Room(version)
    content: dict[str, Any] = {"room_version": version, **create}
    if not room.rules.implicit_creator:
        content["creator"] = ALICE
    room.add(ALICE, types.CREATE, content, "")
    room.member(ALICE, ALICE, types.JOIN)
    room.levels(users={} if room.rules.privileged_creators else {ALICE: 100}, invite=0)
    room.join_rule(rule)
    return room
