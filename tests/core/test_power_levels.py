"""Power levels: parsing by room version, and who may change them."""

from typing import Any

import pytest

from hs.core.auth.power_levels import INFINITE_POWER, PowerLevels, power_levels_in, read_level
from hs.core.auth.rules import check_auth
from hs.core.errors import Forbidden
from hs.core.events import types
from hs.core.ids import UserID
from hs.core.versions import ROOM_VERSIONS
from tests.core.room_builder import ALICE, BOB, CAROL, Room, new_room

ALL_VERSIONS = list(ROOM_VERSIONS)


@pytest.mark.parametrize(
    ("value", "until_9", "from_10"),
    [
        (50, 50, 50),
        (-3, -3, -3),
        ("100", 100, None),
        ("000100", 100, None),
        (" +100 ", 100, None),
        ("-100", -100, None),
        ("5.0", None, None),
        ("1_0", None, None),
        ("١", None, None),
        ("", None, None),
        (50.57, 50, None),
        (5.114698e4, 51146, None),
        (-1.9, -1, None),
        (float("inf"), None, None),
        (True, None, None),
        (None, None, None),
        ([1], None, None),
    ],
)
def test_strings_and_floats_are_levels_only_before_version_10(
    value: object, until_9: int | None, from_10: int | None
) -> None:
    assert read_level(value, ROOM_VERSIONS["9"]) == until_9
    assert read_level(value, ROOM_VERSIONS["10"]) == from_10


def test_absent_levels_have_defaults() -> None:
    power = PowerLevels.of_content({"events": {"m.x": 7}}, ROOM_VERSIONS["11"])

    assert (power.ban, power.kick, power.redact, power.invite) == (50, 50, 50, 0)
    assert (power.needed("a", None), power.needed("a", ""), power.needed("m.x", "")) == (0, 50, 7)
    assert power.of_user(BOB) == 0
    assert power.needed_to_notify("room") == 50


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_creator_has_power_before_first_power_levels_event(version: str) -> None:
    room = Room(version)
    room.add(ALICE, types.CREATE, {"creator": ALICE, "room_version": version}, "")

    power = power_levels_in(room.state)

    assert power.of_user(ALICE) == (INFINITE_POWER if version == "12" else 100)
    assert power.of_user(BOB) == 0
    assert (power.needed("m.x", None), power.needed("m.x", "")) == (0, 50)


def _room(version: str, **levels: Any) -> Room:
    room = new_room(version)
    room.levels(**{"users": {ALICE: 100, BOB: 50}, **levels})
    room.member(BOB, BOB, types.JOIN)
    return room


_BASE: dict[str, Any] = {"users": {ALICE: 100, BOB: 50}}


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, True),
        ({"ban": 50}, True),
        ({"ban": 51}, False),
        ({"kick": 40, "redact": 30, "invite": 20, "users_default": 10}, True),
        ({"state_default": 60}, False),
        ({"events": {"m.x": 50}}, True),
        ({"events": {"m.x": 51}}, False),
        ({"users": {ALICE: 100, BOB: 50, CAROL: 50}}, True),
        ({"users": {ALICE: 100, BOB: 50, CAROL: 51}}, False),
        ({"users": {ALICE: 100, BOB: 10}}, True),
        ({"users": {ALICE: 100, BOB: 60}}, False),
        ({"users": {ALICE: 100}}, True),
        ({"users": {ALICE: 50, BOB: 50}}, False),
        ({"users": {BOB: 50}}, False),
    ],
)
@pytest.mark.parametrize("version", ["1", "6", "11"])
def test_moderator_changes_levels_only_up_to_own_level(
    version: str, change: dict[str, Any], allowed: bool
) -> None:
    room = _room(version)
    event = room.draft(BOB, types.POWER_LEVELS, {**_BASE, **change}, "")

    if allowed:
        check_auth(event, room.state)
        return
    with pytest.raises(Forbidden):
        check_auth(event, room.state)


@pytest.mark.parametrize(
    "change",
    [{"ban": 40}, {"events": {}}, {"events": {"m.x": 40}}, {"users": {ALICE: 100, BOB: 50}}],
)
def test_moderator_cannot_change_levels_above_own(change: dict[str, Any]) -> None:
    equal = {ALICE: 100, BOB: 50, CAROL: 50}
    before = {"users": equal, "ban": 60, "events": {"m.x": 60}}
    room = _room("11", **before)

    check_auth(room.draft(BOB, types.POWER_LEVELS, before, ""), room.state)
    with pytest.raises(Forbidden):
        check_auth(room.draft(BOB, types.POWER_LEVELS, {**before, **change}, ""), room.state)


@pytest.mark.parametrize("version", ALL_VERSIONS[:-1])
def test_changes_to_notifications_are_checked_from_version_6_on(version: str) -> None:
    room = _room(version)
    event = room.draft(BOB, types.POWER_LEVELS, {**_BASE, "notifications": {"room": 60}}, "")

    if not room.rules.notifications_guarded:
        check_auth(event, room.state)
        return
    with pytest.raises(Forbidden):
        check_auth(event, room.state)


@pytest.mark.parametrize(
    "content", [{"ban": "50"}, {"events": {"m.x": "50"}}, {"users": {BOB: "5"}}]
)
def test_levels_may_be_strings_before_version_10(content: dict[str, Any]) -> None:
    for version in ALL_VERSIONS:
        room = new_room(version)
        event = room.draft(ALICE, types.POWER_LEVELS, content, "")
        if room.rules.integer_power_levels:
            with pytest.raises(Forbidden, match="must be an integer"):
                check_auth(event, room.state)
        elif "users" in content:
            check_auth(event, room.state)


@pytest.mark.parametrize(
    "content",
    [{"users": []}, {"users": {"bob": 3}}, {"users": {BOB: None}}, {"events": 3}, {"kick": "x"}],
)
@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_malformed_levels_are_rejected(version: str, content: dict[str, Any]) -> None:
    room = new_room(version)

    with pytest.raises(Forbidden):
        check_auth(room.draft(ALICE, types.POWER_LEVELS, content, ""), room.state)


def test_creators_of_version_12_have_infinite_power() -> None:
    room = new_room("12", additional_creators=[BOB])
    room.levels(users={CAROL: 2**53 - 1})
    for user_id in (BOB, CAROL):
        room.member(user_id, user_id, types.JOIN)
    power = power_levels_in(room.state)

    assert power.of_user(ALICE) == power.of_user(BOB) == INFINITE_POWER > power.of_user(CAROL)
    room.member(BOB, CAROL, types.LEAVE)
    for target in (ALICE, BOB):
        event = room.draft(ALICE, types.POWER_LEVELS, {"users": {target: 100}}, "")
        with pytest.raises(Forbidden, match="creators"):
            check_auth(event, room.state)
    with pytest.raises(Forbidden):
        check_auth(room.draft(BOB, types.MEMBER, {"membership": "ban"}, ALICE), room.state)


def test_given_power_levels_are_used() -> None:
    room = new_room("11")
    power = PowerLevels.of_content({"events_default": 1}, room.rules)
    event = room.draft(UserID(ALICE), types.MESSAGE, {})

    check_auth(event, room.state)
    with pytest.raises(Forbidden, match="requires power level 1"):
        check_auth(event, room.state, power)
