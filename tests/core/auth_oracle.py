"""A second implementation of the authorisation rules, written literally after the specification.

It shares nothing with the server except the Event class. `test_auth_compared` compares the two.
"""

import re
from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.events.event import Event

INFINITE = 10**30
SINGLE_LEVELS = (
    "users_default",
    "events_default",
    "state_default",
    "ban",
    "redact",
    "kick",
    "invite",
)

State = Mapping[tuple[str, str], Event]


class Rejected(Exception):
    """The authorisation rules reject the event; names the step."""


def reject_if(condition: bool, step: str) -> None:
    if condition:
        raise Rejected(step)


def domain(identifier: str) -> str:
    return identifier.split(":", 1)[1]


def is_user_id(value: object) -> bool:
    pattern = r"@[^\0:]*:[A-Za-z0-9.\-]+(:\d+)?"
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def as_level(value: object, version: int) -> int | None:
    """Read a power level; before version 10 floats and strings of integers count as well."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if version >= 10:
        return None
    if isinstance(value, float):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)
    return None


@attrs.frozen
class Rules:
    """The rules of one room version over one room state."""

    version: int
    state: State

    def check(self, event: Event) -> None:
        """Go through the steps in order.

        Raises: Rejected.
        """
        if event.type == "m.room.create":
            return self.check_create(event)
        reject_if(("m.room.create", "") not in self.state, "no create event")
        create = self.create
        if self.version >= 12:
            reject_if(event.room_id[1:] != create.event_id[1:], "room ID")
        if create.content.get("m.federate") is False:
            reject_if(domain(event.sender) != domain(create.sender), "federate")
        if self.version <= 5 and event.type == "m.room.aliases":
            return reject_if(event.state_key != domain(event.sender), "aliases")
        if event.type == "m.room.member":
            return self.check_member(event)
        reject_if(self.membership(event.sender) != "join", "sender not joined")
        power = self.power(event.sender)
        if event.type == "m.room.third_party_invite":
            return reject_if(power < self.level("invite", 0), "third party invite")
        reject_if(self.required(event) > power, "required level")
        own_key = event.state_key is None or not event.state_key.startswith("@")
        reject_if(not own_key and event.state_key != event.sender, "other user's key")
        if event.type == "m.room.power_levels":
            self.check_power_levels(event)
        if event.type == "m.room.redaction" and self.version <= 2:
            self.check_redaction(event)
        return None

    @property
    def create(self) -> Event:
        return self.state["m.room.create", ""]

    @property
    def levels(self) -> Event | None:
        return self.state.get(("m.room.power_levels", ""))

    @property
    def creators(self) -> set[str]:
        if self.version <= 10:
            return {self.create.content["creator"]}
        additional = (
            self.create.content.get("additional_creators", []) if self.version >= 12 else []
        )
        return {self.create.sender, *additional}

    def level(self, name: str, default: int) -> int:
        level = None
        if self.levels is not None:
            level = as_level(self.levels.content.get(name), self.version)
        return default if level is None else level

    def mapped(self, field: str, key: str) -> int | None:
        levels = None if self.levels is None else self.levels.content.get(field)
        return as_level(levels.get(key), self.version) if isinstance(levels, dict) else None

    def power(self, user_id: str) -> int:
        if self.version >= 12 and user_id in self.creators:
            return INFINITE
        if self.levels is None:
            return 100 if user_id in self.creators else 0
        user_level = self.mapped("users", user_id)
        return self.level("users_default", 0) if user_level is None else user_level

    def required(self, event: Event) -> int:
        type_level = self.mapped("events", event.type)
        if type_level is not None:
            return type_level
        if event.state_key is None:
            return self.level("events_default", 0)
        return self.level("state_default", 50)

    def membership(self, user_id: str) -> Any:
        member = self.state.get(("m.room.member", user_id))
        return None if member is None else member.content.get("membership")

    def check_create(self, event: Event) -> None:
        content = event.content
        reject_if(bool(event.prev_events), "prev_events")
        if self.version >= 12:
            reject_if("room_id" in event.pdu, "room_id")
        else:
            reject_if(domain(event.room_id) != domain(event.sender), "room ID's domain")
        if "room_version" in content:
            known = [str(number) for number in range(1, 13)]
            reject_if(content["room_version"] not in known, "room_version")
        reject_if(self.version <= 10 and "creator" not in content, "creator")
        if self.version >= 12 and "additional_creators" in content:
            additional = content["additional_creators"]
            valid = isinstance(additional, list) and all(
                is_user_id(user_id) for user_id in additional
            )
            reject_if(not valid, "additional_creators")

    def check_member(self, event: Event) -> None:
        membership = event.content.get("membership")
        reject_if(event.state_key is None or "membership" not in event.content, "incomplete")
        steps = {
            "join": self.check_join,
            "invite": self.check_invite,
            "leave": self.check_leave,
            "ban": self.check_ban,
        }
        if self.version >= 7:
            steps["knock"] = self.check_knock
        step = steps.get(membership) if isinstance(membership, str) else None
        if step is None:
            raise Rejected("unknown membership")
        step(event, str(event.state_key))

    @property
    def join_rule(self) -> Any:
        rules = self.state.get(("m.room.join_rules", ""))
        return "invite" if rules is None else rules.content.get("join_rule", "invite")

    def check_join(self, event: Event, target: str) -> None:
        if event.prev_events == (self.create.event_id,):
            creator = self.create.content["creator"] if self.version <= 10 else self.create.sender
            if target == creator:
                return
        reject_if(event.sender != target, "join of another")
        reject_if(self.membership(target) == "ban", "banned")
        rule, present = self.join_rule, self.membership(target) in ("invite", "join")
        if rule == "invite" or (rule == "knock" and self.version >= 7):
            reject_if(not present, "not invited")
        elif (rule == "restricted" and self.version >= 8) or (
            rule == "knock_restricted" and self.version >= 10
        ):
            authoriser = event.content.get("join_authorised_via_users_server")
            may_invite = (
                isinstance(authoriser, str)
                and self.membership(authoriser) == "join"
                and self.power(authoriser) >= self.level("invite", 0)
            )
            reject_if(not present and not may_invite, "restricted")
        else:
            reject_if(rule != "public", "join rule")

    def check_invite(self, event: Event, target: str) -> None:
        # Third-party invites are always rejected: the random ones are never validly signed.
        reject_if("third_party_invite" in event.content, "third party invite")
        reject_if(self.membership(event.sender) != "join", "sender not joined")
        reject_if(self.membership(target) in ("join", "ban"), "target joined or banned")
        reject_if(self.power(event.sender) < self.level("invite", 0), "invite level")

    def check_leave(self, event: Event, target: str) -> None:
        if event.sender == target:
            memberships = ("invite", "join", "knock") if self.version >= 7 else ("invite", "join")
            return reject_if(self.membership(target) not in memberships, "not there")
        power = self.power(event.sender)
        reject_if(self.membership(event.sender) != "join", "sender not joined")
        banned = self.membership(target) == "ban"
        reject_if(banned and power < self.level("ban", 50), "unban")
        allowed = power >= self.level("kick", 50) and self.power(target) < power
        return reject_if(not allowed, "kick")

    def check_ban(self, event: Event, target: str) -> None:
        power = self.power(event.sender)
        reject_if(self.membership(event.sender) != "join", "sender not joined")
        allowed = power >= self.level("ban", 50) and self.power(target) < power
        reject_if(not allowed, "ban")

    def check_knock(self, event: Event, target: str) -> None:
        rules = ("knock", "knock_restricted") if self.version >= 10 else ("knock",)
        reject_if(self.join_rule not in rules, "join rule")
        reject_if(event.sender != target, "knock of another")
        reject_if(self.membership(target) in ("ban", "invite", "join"), "knock")

    def check_redaction(self, event: Event) -> None:
        if self.power(event.sender) >= self.level("redact", 50):
            return
        target = event.pdu["redacts"]
        reject_if(domain(target) != domain(event.event_id), "redaction")

    def check_power_levels(self, event: Event) -> None:
        content = event.content
        self.check_form(content)
        users = content.get("users", {})
        reject_if(self.version >= 12 and bool(self.creators & users.keys()), "creators named")
        if self.levels is None:
            return
        old, power = self.levels.content, self.power(event.sender)
        for name in SINGLE_LEVELS:
            self.check_change(old.get(name), content.get(name), power)
        for field in self.guarded:
            old_levels, new_levels = _object(old.get(field)), _object(content.get(field))
            for key in old_levels.keys() | new_levels.keys():
                self.check_change(old_levels.get(key), new_levels.get(key), power)
        old_levels = _object(old.get("users"))
        for user_id in old_levels.keys() | users.keys():
            before = as_level(old_levels.get(user_id), self.version)
            after = as_level(users.get(user_id), self.version)
            if before != after:
                above = before is not None and before >= power and user_id != event.sender
                reject_if(above or (after is not None and after > power), "users")

    @property
    def guarded(self) -> tuple[str, ...]:
        return ("events", "notifications") if self.version >= 6 else ("events",)

    def check_form(self, content: Mapping[str, Any]) -> None:
        for name in SINGLE_LEVELS:
            bad = name in content and as_level(content[name], self.version) is None
            reject_if(bad, "not an integer")
        for field in (*self.guarded, "users"):
            levels = content.get(field, {})
            reject_if(not isinstance(levels, dict), "not an object")
            readable = all(as_level(level, self.version) is not None for level in levels.values())
            reject_if(not readable, "not integers")
        reject_if(not all(map(is_user_id, content.get("users", {}))), "not user IDs")

    def check_change(self, old: object, new: object, power: int) -> None:
        before, after = as_level(old, self.version), as_level(new, self.version)
        if before != after:
            highest = max(level for level in (before, after) if level is not None)
            reject_if(highest > power, "above own level")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
