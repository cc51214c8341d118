"""The authorisation rules compared with `auth_oracle` on random rooms of every version."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from hs.core.auth.rules import check_auth
from hs.core.errors import Forbidden
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import ROOM_VERSIONS
from tests.core.auth_oracle import SINGLE_LEVELS, Rejected, Rules

USERS = ["@a:x", "@b:x", "@c:y", "@d:y:80"]
JOIN_RULES = ["public", "invite", "knock", "restricted", "knock_restricted", "private", 5, None]
MEMBERSHIPS = ["join", "invite", "leave", "ban", "knock"]
TYPES = ["m.room.name", "m.room.power_levels", "m.room.redaction", "m.x"]
ODD_LEVELS = ["50", " +60 ", "-1", "x", "", "1.5", 50.0, 60.9, None, True, [], {}]
CASES = 1500


@attrs.define
class RandomRoom:
    """A source of random room states and events of one room version."""

    version: str
    dice: random.Random

    @property
    def number(self) -> int:
        return int(self.version)

    @property
    def create_id(self) -> EventID:
        return EventID("$create:x" if self.number < 3 else "$create")

    @property
    def room_id(self) -> RoomID:
        return RoomID("!r:x" if self.number < 12 else "!create")

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def event(
        self,
        event_type: str,
        sender: str,
        state_key: str | None,
        content: Mapping[str, Any],
        *,
        prev_events: Sequence[str] = ("$p",),
        event_id: EventID | None = None,
        **pdu: Any,
    ) -> Event:
        default_id = EventID("$e" if self.number >= 3 else f"$e:{sender.split(':', 1)[1]}")
        return Event(
            event_id=event_id or default_id,
            room_id=pdu.get("room_id") or self.room_id,
            type=event_type,
            sender=UserID(sender),
            state_key=state_key,
            content=content,
            depth=1,
            origin_server_ts=1,
            prev_events=tuple(EventID(prev_event) for prev_event in prev_events),
            auth_events=(),
            rules=ROOM_VERSIONS[self.version],
            pdu={"type": event_type, "content": content, **pdu},
            canonical=b"",
        )

    def create_content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"room_version": self.version}
        if self.chance(0.2):
            content["m.federate"] = self.dice.choice([False, True, 0, None])
        if self.number <= 10:
            content["creator"] = self.dice.choice(["@a:x", "@a:x", "@b:x"])
        if self.number >= 12 and self.chance(0.4):
            content["additional_creators"] = [self.dice.choice(USERS)]
        return content

    def level(self) -> Any:
        usual = [-1, 0, 20, 50, 60, 100, 150]
        return self.dice.choice(usual if self.chance(0.9) else ODD_LEVELS)

    def levels(self, base: Mapping[str, Any] | None) -> dict[str, Any]:
        content = dict(base or {})
        for name in SINGLE_LEVELS:
            if self.chance(0.5 if base is None else 0.1):
                content[name] = self.level()
            elif self.chance(0.1):
                content.pop(name, None)
        for field, keys in (("users", USERS), ("events", TYPES), ("notifications", ["room"])):
            if self.chance(0.7 if base is None else 0.3):
                content[field] = self.mapping(content.get(field), keys)
        return content

    def mapping(self, old: object, keys: Sequence[str]) -> Any:
        if self.chance(0.03):
            return self.dice.choice([[], None, 5])
        levels = dict(old) if isinstance(old, dict) else {}
        for key in (*keys, "bad") if self.chance(0.03) else keys:
            if self.chance(0.4):
                levels[key] = self.level()
            elif self.chance(0.1):
                levels.pop(key, None)
        return levels

    def state(self) -> dict[tuple[str, str], Event]:
        state: dict[tuple[str, str], Event] = {}

        def put(event_type: str, key: str, content: Mapping[str, Any], sender: str) -> None:
            state[event_type, key] = self.event(event_type, sender, key, content)

        if self.chance(0.98):
            create = self.event(
                "m.room.create", "@a:x", "", self.create_content(), event_id=self.create_id
            )
            state["m.room.create", ""] = create
        for user_id in USERS:
            membership = self.dice.choice(["join", "join", *MEMBERSHIPS, 5, None])
            if membership is not None:
                put("m.room.member", user_id, {"membership": membership}, user_id)
        if self.chance(0.9):
            content = {"join_rule": self.dice.choice(JOIN_RULES)} if self.chance(0.95) else {}
            put("m.room.join_rules", "", content, "@a:x")
        if self.chance(0.85):
            put("m.room.power_levels", "", self.levels(None), "@a:x")
        return state

    def candidate(self, state: Mapping[tuple[str, str], Event]) -> Event:
        sender = self.dice.choice(USERS)
        kind = self.dice.choice(["member", "member", "levels", "create", "other", "other"])
        if kind == "member":
            return self.member(sender)
        if kind == "create":
            return self.second_create(sender)
        if kind == "levels":
            current = state.get(("m.room.power_levels", ""))
            content = self.levels(current.content if current and self.chance(0.8) else None)
            return self.event("m.room.power_levels", sender, "", content)
        event_type = self.dice.choice([*TYPES, "m.room.aliases", "m.room.third_party_invite"])
        redacts = self.dice.choice(["$t:x", "$t:y"])
        state_key = self.dice.choice([None, "", sender, *USERS, "x", "y"])
        room_id = "!other" if self.number >= 12 and self.chance(0.05) else None
        return self.event(event_type, sender, state_key, {}, redacts=redacts, room_id=room_id)

    def member(self, sender: str) -> Event:
        content: dict[str, Any] = {"membership": self.dice.choice([*MEMBERSHIPS, "x", 5])}
        if self.chance(0.4):
            content["join_authorised_via_users_server"] = self.dice.choice([*USERS, 5])
        if self.chance(0.03):
            content["third_party_invite"] = self.dice.choice([{}, 5, {"signed": {}}])
        target = self.dice.choice([sender, sender, *USERS, None])
        create_or_none = self.dice.choice([(self.create_id,), (self.create_id, "$p"), ()])
        prev_events = create_or_none if self.chance(0.15) else ("$p",)
        return self.event("m.room.member", sender, target, content, prev_events=prev_events)

    def second_create(self, sender: str) -> Event:
        content = self.create_content()
        if self.chance(0.3):
            content["room_version"] = self.dice.choice(["99", 5, "1", "12", None])
        if self.chance(0.2):
            content.pop("creator", None)
        if self.chance(0.3):
            content["additional_creators"] = self.dice.choice([[], USERS, ["x"], "x", [5], None])
        prev_events = ["$p"] if self.chance(0.3) else []
        pdu: dict[str, Any] = {"room_id": self.room_id}
        if self.number >= 12 and self.chance(0.7):
            pdu = {}
        if self.number < 12 and self.chance(0.3):
            pdu = {"room_id": RoomID("!r:y")}
        return self.event("m.room.create", sender, "", content, prev_events=prev_events, **pdu)


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
def test_check_auth_agrees_with_oracle(version: str) -> None:
    seed = random.randrange(2**32)
    room = RandomRoom(version, random.Random(seed))
    for _ in range(CASES):
        state = room.state()
        event = room.candidate(state)
        rejected = forbidden = None

        try:
            Rules(room.number, state).check(event)
        except Rejected as step:
            rejected = step
        try:
            check_auth(event, state)
        except Forbidden as error:
            forbidden = error

        contents = {key: state_event.content for key, state_event in state.items()}
        assert (rejected is None) == (forbidden is None), (
            f"seed {seed}: {rejected!r} but {forbidden!r} of {event} {event.content} in {contents}"
        )
