"""The authorisation rules: membership, sending, redactions and m.room.create, by room version."""

from typing import Any

import pytest

from hs.core.auth.power_levels import power_levels_in
from hs.core.auth.redaction_rules import redaction_applies
from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_types_for_event, check_auth_events_selection
from hs.core.errors import Forbidden
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import ServerName, UserID
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import sign_json
from hs.core.versions import ROOM_VERSIONS
from tests.core.room_builder import ALICE, BOB, CAROL, Room, new_room

ALL_VERSIONS = list(ROOM_VERSIONS)
SOME_VERSIONS = ["1", "6", "11", "12"]
IDENTITY_SERVER = Signer(ServerName("id.example"), SigningKey.from_seed("0", bytes(32)))


def _assert_rejected(room: Room, event: Event, match: str = ".") -> None:
    with pytest.raises(Forbidden, match=match):
        check_auth(event, room.state)


def _member(room: Room, sender: UserID, target: str, membership: str, **more: Any) -> Event:
    return room.draft(sender, types.MEMBER, {"membership": membership, **more}, target)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_users_can_join_send_and_leave_in_public_room(version: str) -> None:
    room = new_room(version)

    _assert_rejected(room, room.draft(BOB, types.MESSAGE, {}), "not in the room")
    room.member(BOB, BOB, types.JOIN)
    room.add(BOB, types.MESSAGE, {"body": "hi"})
    _assert_rejected(
        room, room.draft(BOB, types.TOPIC, {"topic": "x"}, ""), "requires power level 50"
    )
    room.member(BOB, BOB, types.LEAVE)
    _assert_rejected(room, _member(room, BOB, BOB, types.LEAVE), "not in this room")


@pytest.mark.parametrize("rule", [5, None, ["public"], {}])
def test_nobody_joins_if_join_rule_is_not_a_string(rule: object) -> None:
    room = new_room("11")
    room.member(BOB, BOB, types.JOIN)
    room.add(ALICE, types.JOIN_RULES, {"join_rule": rule}, "")

    _assert_rejected(room, _member(room, CAROL, CAROL, types.JOIN), "Nobody can join")
    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN), "Nobody can join")


def test_missing_join_rule_means_invite_only() -> None:
    room = new_room("11")
    room.add(ALICE, types.JOIN_RULES, {}, "")
    room.member(ALICE, BOB, types.INVITE)

    room.member(BOB, BOB, types.JOIN)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_joining_invite_only_room_requires_invite(version: str) -> None:
    room = new_room(version, types.RULE_INVITE)

    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN), "not invited")
    _assert_rejected(room, _member(room, BOB, CAROL, types.INVITE), "not in the room")
    room.member(ALICE, BOB, types.INVITE)
    room.member(BOB, BOB, types.JOIN)
    _assert_rejected(room, _member(room, ALICE, BOB, types.INVITE), "already")
    room.member(BOB, CAROL, types.INVITE)
    room.member(CAROL, CAROL, types.LEAVE)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_banned_user_cannot_rejoin_until_unbanned(version: str) -> None:
    room = new_room(version)
    room.member(BOB, BOB, types.JOIN)

    _assert_rejected(room, _member(room, BOB, ALICE, types.BAN), "Banning requires power level 50")
    _assert_rejected(
        room, _member(room, BOB, ALICE, types.LEAVE), "Kicking requires power level 50"
    )
    room.member(ALICE, BOB, types.BAN)
    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN), "banned")
    _assert_rejected(room, _member(room, BOB, BOB, types.LEAVE))
    _assert_rejected(room, _member(room, ALICE, BOB, types.INVITE), "banned")
    room.member(ALICE, BOB, types.LEAVE)
    room.member(BOB, BOB, types.JOIN)


def test_moderator_cannot_kick_or_ban_users_of_equal_power() -> None:
    room = new_room("11")
    room.levels(users={ALICE: 100, BOB: 50, CAROL: 50})
    room.member(BOB, BOB, types.JOIN)
    room.member(CAROL, CAROL, types.JOIN)

    for membership in (types.LEAVE, types.BAN):
        _assert_rejected(room, _member(room, BOB, CAROL, membership), "not below yours")
        _assert_rejected(room, _member(room, BOB, ALICE, membership), "not below yours")
    room.member(ALICE, CAROL, types.LEAVE)


def test_unbanning_requires_power_to_ban() -> None:
    room = new_room("11")
    room.levels(users={ALICE: 100, BOB: 50}, ban=60, kick=40)
    room.member(BOB, BOB, types.JOIN)
    room.member(ALICE, CAROL, types.BAN)

    _assert_rejected(
        room, _member(room, BOB, CAROL, types.LEAVE), "Unbanning requires power level 60"
    )


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_malformed_membership_events_are_rejected(version: str) -> None:
    room = new_room(version)

    _assert_rejected(room, room.draft(BOB, types.MEMBER, {"membership": "join"}), "state_key")
    _assert_rejected(room, room.draft(BOB, types.MEMBER, {}, BOB), "membership")
    _assert_rejected(room, room.draft(BOB, types.MEMBER, {"membership": 3}, BOB), "membership")
    _assert_rejected(room, _member(room, BOB, BOB, "dance"), "Unknown membership")
    _assert_rejected(room, _member(room, ALICE, BOB, types.JOIN), "on behalf of")


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_knocking_is_allowed_from_version_7_on(version: str) -> None:
    room = new_room(version, types.RULE_KNOCK)
    knock = _member(room, BOB, BOB, types.KNOCK)

    if not room.rules.knocking:
        _assert_rejected(room, knock, "Unknown membership")
        return
    _assert_rejected(room, _member(room, ALICE, BOB, types.KNOCK), "on behalf of")
    room.member(BOB, BOB, types.KNOCK)
    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN), "not invited")
    room.member(BOB, BOB, types.LEAVE)
    room.member(BOB, BOB, types.KNOCK)
    room.member(ALICE, BOB, types.INVITE)
    _assert_rejected(room, _member(room, BOB, BOB, types.KNOCK), "membership is invite")
    room.join_rule(types.RULE_INVITE)
    _assert_rejected(room, _member(room, CAROL, CAROL, types.KNOCK), "does not allow knocking")


@pytest.mark.parametrize("rule", [types.RULE_RESTRICTED, types.RULE_KNOCK_RESTRICTED])
@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_restricted_join_requires_authorising_member_or_invite(version: str, rule: str) -> None:
    room = new_room(version, rule)
    rules = room.rules
    is_supported = (
        rules.restricted_joins if rule == types.RULE_RESTRICTED else rules.knock_restricted
    )
    by_alice = {"join_authorised_via_users_server": ALICE}
    by_carol = {"join_authorised_via_users_server": CAROL}

    if not is_supported:
        _assert_rejected(room, _member(room, BOB, BOB, types.JOIN, **by_alice), "Nobody can join")
        return
    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN), "no member of the room")
    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN, **by_carol), "not in the room")
    room.member(BOB, BOB, types.JOIN, **by_alice)
    room.member(BOB, BOB, types.JOIN, displayname="B")
    room.member(ALICE, CAROL, types.INVITE)
    room.member(CAROL, CAROL, types.JOIN)


def test_authorising_member_must_have_power_to_invite() -> None:
    room = new_room("11", types.RULE_RESTRICTED)
    room.levels(users={ALICE: 100}, invite=50)
    room.member(BOB, BOB, types.JOIN, join_authorised_via_users_server=ALICE)

    event = _member(room, CAROL, CAROL, types.JOIN, join_authorised_via_users_server=BOB)

    _assert_rejected(room, event, "lacks the power to invite")


def _add_third_party_invite(room: Room, **keys: Any) -> None:
    room.add(ALICE, types.THIRD_PARTY_INVITE, {"display_name": "b", **keys}, "token")


@pytest.mark.parametrize("version", SOME_VERSIONS)
@pytest.mark.parametrize("is_list", [False, True])
def test_third_party_invite_requires_valid_signature(version: str, is_list: bool) -> None:
    room = new_room(version, types.RULE_INVITE)
    public = IDENTITY_SERVER.key.verify_key.base64
    entries = [{"public_key": "broken"}, {"public_key": public}]
    _add_third_party_invite(
        room, **({"public_keys": entries} if is_list else {"public_key": public})
    )
    signed = sign_json({"mxid": BOB, "token": "token"}, IDENTITY_SERVER)
    stranger = Signer(IDENTITY_SERVER.server_name, SigningKey.from_seed("0", bytes(range(32))))

    def invite(signed: Any, target: str = BOB) -> Event:
        return _member(room, ALICE, target, types.INVITE, third_party_invite={"signed": signed})

    _assert_rejected(room, invite(None), "signed object")
    _assert_rejected(room, invite({"mxid": BOB}), "mxid and token")
    _assert_rejected(room, invite(signed, CAROL), "invited user")
    _assert_rejected(room, invite({**signed, "token": "other"}), "no m.room.third_party_invite")
    _assert_rejected(room, invite({**signed, "extra": 1}), "no valid signature")
    _assert_rejected(
        room, invite(sign_json({"mxid": BOB, "token": "token"}, stranger)), "no valid signature"
    )
    room.member(ALICE, BOB, types.INVITE, third_party_invite={"signed": signed})
    room.member(BOB, BOB, types.JOIN)


def test_third_party_invite_event_requires_power_to_invite() -> None:
    room = new_room("11")
    room.member(BOB, BOB, types.JOIN)
    room.levels(users={ALICE: 100}, invite=50)

    _assert_rejected(
        room, room.draft(BOB, types.THIRD_PARTY_INVITE, {}, "t"), "Inviting requires power level 50"
    )
    room.add(ALICE, types.THIRD_PARTY_INVITE, {}, "t")


@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_state_key_with_user_id_is_reserved_for_that_user(version: str) -> None:
    room = new_room(version)
    room.levels(users={} if version == "12" else {ALICE: 100}, events={"org.x": 0})
    room.member(BOB, BOB, types.JOIN)

    room.add(BOB, "org.x", {}, BOB)
    room.add(BOB, "org.x", {}, "anything")
    _assert_rejected(room, room.draft(BOB, "org.x", {}, ALICE), "state_key")


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_unfederated_room_rejects_users_of_other_servers(version: str) -> None:
    room = new_room(version, types.RULE_PUBLIC, **{"m.federate": False})

    _assert_rejected(room, _member(room, BOB, BOB, types.JOIN), "not federated")
    neighbour = UserID("@n:one.example")
    room.member(neighbour, neighbour, types.JOIN)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_aliases_event_has_own_rule_before_version_6(version: str) -> None:
    room = new_room(version)
    event = room.draft(CAROL, types.ALIASES, {"aliases": []}, "three.example")

    if room.rules.aliases_rule:
        check_auth(event, room.state)
        _assert_rejected(
            room, room.draft(CAROL, types.ALIASES, {}, "one.example"), "state_key of m.room.aliases"
        )
    else:
        _assert_rejected(room, event, "not in the room")


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_redaction_applies_by_power_or_same_server(version: str) -> None:
    room = new_room(version)
    room.member(BOB, BOB, types.JOIN)
    target = room.add(ALICE, types.MESSAGE, {"body": "x"})
    own = room.add(BOB, types.MESSAGE, {"body": "x"})
    power = power_levels_in(room.state)

    by_alice = room.draft(ALICE, types.REDACTION, {}, redacts=own.event_id)
    by_bob = room.draft(BOB, types.REDACTION, {}, redacts=target.event_id)
    own_by_bob = room.draft(BOB, types.REDACTION, {}, redacts=own.event_id)

    for event in (by_alice, by_bob, own_by_bob):
        check_auth(event, room.state)
    assert redaction_applies(by_alice, own, power)
    assert redaction_applies(own_by_bob, own, power)
    assert redaction_applies(by_bob, target, power) == room.rules.redaction_auth_rule
    assert not redaction_applies(by_bob, own, power)


def test_version_2_rejects_redaction_of_other_servers_event() -> None:
    room = new_room("2")
    room.member(BOB, BOB, types.JOIN)
    event = room.draft(BOB, types.REDACTION, {}, redacts=room.events[0].event_id)

    foreign = parse_pdu({**event.pdu, "event_id": "$x:two.example"}, room.rules)

    _assert_rejected(room, foreign, "Redacting")


def _create(version: str, **content: Any) -> Event:
    return Room(version).draft(ALICE, types.CREATE, content, "")


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_malformed_create_events_are_rejected(version: str) -> None:
    rules = ROOM_VERSIONS[version]
    event = _create(version, creator=ALICE, room_version=version)
    by_other_server = Room(version).draft(BOB, types.CREATE, {"creator": BOB}, "")
    references = [["$a:b", {}]] if version in ("1", "2") else ["$a"]
    second = parse_pdu({**event.pdu, "prev_events": references}, rules)

    check_auth(event, {})
    _assert_rejected(Room(version), second, "prev_events")
    _assert_rejected(Room(version), _create(version, creator=ALICE, room_version="99"), "version")
    if not rules.implicit_creator:
        _assert_rejected(Room(version), _create(version), "content.creator")
    if not rules.room_id_is_create_hash:
        _assert_rejected(Room(version), by_other_server, "domain of room_id")


def test_version_12_room_id_must_match_create_event() -> None:
    room = new_room("12")
    other_room = new_room("12", type="m.space")
    with_id = parse_pdu({**_create("12").pdu, "room_id": "!a:b"}, room.rules)

    _assert_rejected(room, with_id, "room_id")
    with pytest.raises(Forbidden, match="does not match the create event"):
        check_auth(room.events[1], other_room.state)
    invalid_lists: list[Any] = ["x", ["x"], [3], {}]
    for additional in invalid_lists:
        _assert_rejected(Room("12"), _create("12", additional_creators=additional), "additional")
    check_auth(_create("12", additional_creators=[BOB]), {})


def test_event_is_rejected_without_create_event() -> None:
    _assert_rejected(Room("11"), new_room("11").events[1], "no create event")


def test_auth_events_selection_by_event_type_and_version() -> None:
    create, levels = types.CREATE_KEY, types.POWER_LEVELS_KEY
    alice, bob = (types.MEMBER, ALICE), (types.MEMBER, BOB)
    rules_key, carol = types.JOIN_RULES_KEY, (types.MEMBER, CAROL)
    invite = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    authorised = {"membership": "join", "join_authorised_via_users_server": CAROL}

    def cited(version: str, event_type: str, key: str | None, content: Any) -> list[Any]:
        return auth_types_for_event(ROOM_VERSIONS[version], event_type, ALICE, key, content)

    assert cited("11", types.CREATE, "", {}) == []
    assert cited("11", types.MESSAGE, None, {}) == [create, levels, alice]
    assert cited("12", types.MESSAGE, None, {}) == [levels, alice]
    assert cited("11", types.MEMBER, BOB, {"membership": "ban"}) == [create, levels, alice, bob]
    assert cited("11", types.MEMBER, ALICE, {"membership": "leave"}) == [create, levels, alice]
    assert cited("11", types.MEMBER, BOB, invite)[4:] == [
        rules_key,
        (types.THIRD_PARTY_INVITE, "t"),
    ]
    assert cited("7", types.MEMBER, ALICE, authorised) == [create, levels, alice, rules_key]
    assert cited("8", types.MEMBER, ALICE, authorised)[4:] == [carol]


def test_wrong_auth_events_are_rejected() -> None:
    room = new_room("11")
    event = room.draft(ALICE, types.MESSAGE, {})
    create, member, levels, join_rules = room.events
    other_create = new_room("11", type="m.space").events[0]
    moved = parse_pdu({**other_create.pdu, "room_id": "!other:one.example"}, room.rules)

    check_auth_events_selection(event, [create, member, levels])
    for cited, match in (
        ([create, create, member], "twice"),
        ([create, join_rules], "must not be cited"),
        ([member, levels], "must contain m.room.create"),
        ([moved, member], "another room"),
    ):
        with pytest.raises(Forbidden, match=match):
            check_auth_events_selection(event, cited)
    with pytest.raises(Forbidden, match="rejected"):
        check_auth_events_selection(event, [create, member], {member.event_id})


def test_version_12_rejects_create_event_in_auth_events() -> None:
    room = new_room("12")
    event = room.draft(ALICE, types.MESSAGE, {})
    create, member, levels, _ = room.events

    check_auth_events_selection(event, [member, levels])
    with pytest.raises(Forbidden, match="must not be cited"):
        check_auth_events_selection(event, [create, member])
