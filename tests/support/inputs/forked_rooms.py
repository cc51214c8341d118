"""Random rooms with forks: concurrent bans, power level changes, joins and topics, skewed clocks.

Each event is allowed by the state before it, so every fork could be the work of honest servers.
Forks are never merged: their states are the input of state resolution.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
from hypothesis import strategies as st
from immutables import Map

from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_types_for_event
from hs.core.errors import Forbidden
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.versions import RoomVersion
from tests.support.inputs.plain_events import plain_event

ADMIN = "@admin:one"
USERS = (ADMIN, "@bob:two", "@carol:three", "@dave:one")
LEVELS = (0, 25, 50, 100)

State = Map[StateKey, EventID]


@attrs.frozen
class Step:
    """A random attempt to change the state, after one of the events so far."""

    parent: int
    sender: str
    kind: str
    target: str
    choice: int
    clock: int


@attrs.define
class ForkedRoom:
    """A room, its events, and the state after each of them."""

    rules: RoomVersion
    room_id: str = "!room:one"
    events: dict[EventID, Event] = attrs.field(factory=dict)
    states: list[State] = attrs.field(factory=list)
    tips: list[EventID | None] = attrs.field(factory=list)
    forks: list[State] = attrs.field(factory=list)

    def add(
        self, parent: int, sender: str, change: tuple[str, str, Mapping[str, Any]], clock: int
    ) -> bool:
        """Add a state event after event number `parent`; return False if it is not allowed."""
        state = self.states[parent] if self.states else Map[StateKey, EventID]()
        event = self._event(parent, state, sender, change, clock)
        if event.event_id in self.events:
            return False
        try:
            check_auth(event, {key: self.events[event_id] for key, event_id in state.items()})
        except Forbidden:
            return False
        self.events[event.event_id] = event
        self.states.append(state.set((event.type, event.state_key or ""), event.event_id))
        self.tips.append(event.event_id)
        return True

    def _event(
        self,
        parent: int,
        state: State,
        sender: str,
        change: tuple[str, str, Mapping[str, Any]],
        clock: int,
    ) -> Event:
        event_type, state_key, content = change
        keys = auth_types_for_event(self.rules, event_type, sender, state_key, content)
        previous = self.tips[parent] if self.tips else None
        # IDs look random, but are the same in every run.
        seed = repr((previous, sender, event_type, state_key, content, clock)).encode()
        digest = hashlib.sha256(seed).hexdigest()[:43]
        if event_type == "m.room.create" and self.rules.room_id_is_create_hash:
            self.room_id = f"!{digest}"
        return plain_event(
            event_type,
            sender,
            content,
            event_id=f"${digest}",
            room_id=self.room_id,
            state_key=state_key,
            depth=self.events[previous].depth + 1 if previous else 1,
            origin_server_ts=clock,
            prev_events=[previous] if previous else [],
            auth_events=[state[key] for key in keys if key in state],
            rules=self.rules,
        )


def power_levels(room: ForkedRoom, users: Mapping[str, int]) -> tuple[str, str, dict[str, Any]]:
    """Return a power levels change; from room version 12 on, without the creator."""
    listed = dict(users)
    if room.rules.privileged_creators:
        listed.pop(ADMIN, None)
    return "m.room.power_levels", "", {"users": listed}


def new_room(rules: RoomVersion, *, public: bool = True) -> ForkedRoom:
    """Create a room with its initial state; all users have joined if it is public."""
    room = ForkedRoom(rules)
    create = {"creator": ADMIN, "room_version": rules.identifier}
    rule = "public" if public else "invite"
    changes: list[tuple[str, tuple[str, str, Mapping[str, Any]]]] = [
        (ADMIN, ("m.room.create", "", create)),
        (ADMIN, ("m.room.member", ADMIN, {"membership": "join"})),
        (ADMIN, power_levels(room, {ADMIN: 100, USERS[1]: 50})),
        (ADMIN, ("m.room.join_rules", "", {"join_rule": rule})),
        *((user, ("m.room.member", user, {"membership": "join"})) for user in USERS[1:3] if public),
    ]
    for number, (sender, change) in enumerate(changes):
        assert room.add(len(room.tips) - 1, sender, change, number)
    return room


def _change(room: ForkedRoom, step: Step) -> tuple[str, str, Mapping[str, Any]]:
    match step.kind:
        case "power":
            state = room.states[step.parent]
            users = room.events[state["m.room.power_levels", ""]].content["users"]
            return power_levels(room, {**users, step.target: LEVELS[step.choice]})
        case "join_rules":
            rule = ("public", "invite", "public", "knock")[step.choice]
            return "m.room.join_rules", "", {"join_rule": rule}
        case "topic" | "name":
            return f"m.room.{step.kind}", "", {step.kind: str(step.choice)}
        case "own":
            return "org.example.own", step.sender, {"choice": step.choice}
        case "join" | "leave":
            content = {"membership": step.kind, "choice": step.choice}
            return "m.room.member", step.sender, content
        case _:
            membership = {"kick": "leave", "ban": "ban", "invite": "invite"}[step.kind]
            return "m.room.member", step.target, {"membership": membership}


KINDS = (
    *("power", "power", "ban", "ban", "kick", "topic", "topic", "join", "join", "leave"),
    *("invite", "join_rules", "name", "own"),
)


@st.composite
def forked_rooms(draw: st.DrawFn, rules: RoomVersion) -> ForkedRoom:
    """Draw a room of a version with two to four forks."""
    room = new_room(rules)
    for _ in range(draw(st.integers(2, 22))):
        # Most steps continue the latest fork, some start a new one further back.
        back = draw(st.sampled_from((0, 0, 0, 1, 1, 2, 3, 5)))
        step = Step(
            parent=max(len(room.tips) - 1 - back, 3),
            sender=draw(st.sampled_from((ADMIN, *USERS))),
            kind=draw(st.sampled_from(KINDS)),
            target=draw(st.sampled_from(USERS)),
            choice=draw(st.integers(0, 3)),
            clock=draw(st.integers(0, 12)),
        )
        room.add(step.parent, step.sender, _change(room, step), step.clock)
    chosen = draw(
        st.lists(st.integers(3, len(room.states) - 1), min_size=1, max_size=3, unique=True)
    )
    room.forks = [room.states[-1], *(room.states[number] for number in chosen)]
    return room
