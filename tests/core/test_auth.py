"""The authorisation rules: memberships, sending, redactions and creation, by room version."""

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

ALL = list(ROOM_VERSIONS)
MODERN = ["1", "6", "11", "12"]
IDENTITY = Signer(ServerName("id.example"), SigningKey.from_seed("0", bytes(32)))


def _refuse(room: Room, event: Event, match: str = ".") -> None:
    with pytest.raises(Forbidden, match=match):
        check_auth(event, room.state)


def _member(room: Room, sender: UserID, target: str, membership: str, **more: Any) -> Event:
    return room.draft(sender, types.MEMBER, {"membership": membership, **more}, target)


@pytest.mark.parametrize("version", ALL)
def test_a_public_room_lets_people_join_speak_and_leave(version: str) -> None:
    room = new_room(version)

    _refuse(room, room.draft(BOB, types.MESSAGE, {}), "not in the room")
    room.member(BOB, BOB, types.JOIN)
    room.add(BOB, types.MESSAGE, {"body": "hi"})
    _refuse(room, room.draft(BOB, types.TOPIC, {"topic": "x"}, ""), "needs power 50")
    room.member(BOB, BOB, types.LEAVE)
    _refuse(room, _member(room, BOB, BOB, types.LEAVE), "not in this room")


@pytest.mark.parametrize("rule", [5, None, ["public"], {}])
def test_a_join_rule_that_is_no_text_lets_nobody_in(rule: object) -> None:
    room = new_room("11")
    room.member(BOB, BOB, types.JOIN)
    room.add(ALICE, types.JOIN_RULES, {"join_rule": rule}, "")

    _refuse(room, _member(room, CAROL, CAROL, types.JOIN), "lets nobody join")
    _refuse(room, _member(room, BOB, BOB, types.JOIN), "lets nobody join")


def test_join_rules_that_name_no_rule_let_in_the_invited() -> None:
    room = new_room("11")
    room.add(ALICE, types.JOIN_RULES, {}, "")
    room.member(ALICE, BOB, types.INVITE)

    room.member(BOB, BOB, types.JOIN)


@pytest.mark.parametrize("version", ALL)
def test_an_invite_only_room_needs_an_invite(version: str) -> None:
    room = new_room(version, types.RULE_INVITE)

    _refuse(room, _member(room, BOB, BOB, types.JOIN), "not invited")
    _refuse(room, _member(room, BOB, CAROL, types.INVITE), "not in the room")
    room.member(ALICE, BOB, types.INVITE)
    room.member(BOB, BOB, types.JOIN)
    _refuse(room, _member(room, ALICE, BOB, types.INVITE), "already")
    room.member(BOB, CAROL, types.INVITE)
    room.member(CAROL, CAROL, types.LEAVE)


@pytest.mark.parametrize("version", ALL)
def test_bans_hold_until_lifted(version: str) -> None:
    room = new_room(version)
    room.member(BOB, BOB, types.JOIN)

    _refuse(room, _member(room, BOB, ALICE, types.BAN), "ban needs power 50")
    _refuse(room, _member(room, BOB, ALICE, types.LEAVE), "kick needs power 50")
    room.member(ALICE, BOB, types.BAN)
    _refuse(room, _member(room, BOB, BOB, types.JOIN), "banned")
    _refuse(room, _member(room, BOB, BOB, types.LEAVE))
    _refuse(room, _member(room, ALICE, BOB, types.INVITE), "banned")
    room.member(ALICE, BOB, types.LEAVE)
    room.member(BOB, BOB, types.JOIN)


def test_moderators_cannot_touch_their_equals() -> None:
    room = new_room("11")
    room.levels(users={ALICE: 100, BOB: 50, CAROL: 50})
    room.member(BOB, BOB, types.JOIN)
    room.member(CAROL, CAROL, types.JOIN)

    for membership in (types.LEAVE, types.BAN):
        _refuse(room, _member(room, BOB, CAROL, membership), "as much power")
        _refuse(room, _member(room, BOB, ALICE, membership), "as much power")
    room.member(ALICE, CAROL, types.LEAVE)


def test_to_unban_needs_the_power_to_ban() -> None:
    room = new_room("11")
    room.levels(users={ALICE: 100, BOB: 50}, ban=60, kick=40)
    room.member(BOB, BOB, types.JOIN)
    room.member(ALICE, CAROL, types.BAN)

    _refuse(room, _member(room, BOB, CAROL, types.LEAVE), "unban needs power 60")


@pytest.mark.parametrize("version", ALL)
def test_malformed_memberships_are_refused(version: str) -> None:
    room = new_room(version)

    _refuse(room, room.draft(BOB, types.MEMBER, {"membership": "join"}), "state_key")
    _refuse(room, room.draft(BOB, types.MEMBER, {}, BOB), "membership")
    _refuse(room, room.draft(BOB, types.MEMBER, {"membership": 3}, BOB), "membership")
    _refuse(room, _member(room, BOB, BOB, "dance"), "not known")
    _refuse(room, _member(room, ALICE, BOB, types.JOIN), "another user")


@pytest.mark.parametrize("version", ALL)
def test_knocking_by_room_version(version: str) -> None:
    room = new_room(version, types.RULE_KNOCK)
    knock = _member(room, BOB, BOB, types.KNOCK)

    if not room.rules.knocking:
        _refuse(room, knock, "not known")
        return
    _refuse(room, _member(room, ALICE, BOB, types.KNOCK), "another user")
    room.member(BOB, BOB, types.KNOCK)
    _refuse(room, _member(room, BOB, BOB, types.JOIN), "not invited")
    room.member(BOB, BOB, types.LEAVE)
    room.member(BOB, BOB, types.KNOCK)
    room.member(ALICE, BOB, types.INVITE)
    _refuse(room, _member(room, BOB, BOB, types.KNOCK), "membership is invite")
    room.join_rule(types.RULE_INVITE)
    _refuse(room, _member(room, CAROL, CAROL, types.KNOCK), "no knocks")


@pytest.mark.parametrize("rule", [types.RULE_RESTRICTED, types.RULE_KNOCK_RESTRICTED])
@pytest.mark.parametrize("version", ALL)
def test_restricted_joins_by_room_version(version: str, rule: str) -> None:
    room = new_room(version, rule)
    rules = room.rules
    known = rules.restricted_joins if rule == types.RULE_RESTRICTED else rules.knock_restricted
    by_alice = {"join_authorised_via_users_server": ALICE}
    by_carol = {"join_authorised_via_users_server": CAROL}

    if not known:
        _refuse(room, _member(room, BOB, BOB, types.JOIN, **by_alice), "lets nobody join")
        return
    _refuse(room, _member(room, BOB, BOB, types.JOIN), "no user of the room")
    _refuse(room, _member(room, BOB, BOB, types.JOIN, **by_carol), "not in the room")
    room.member(BOB, BOB, types.JOIN, **by_alice)
    room.member(BOB, BOB, types.JOIN, displayname="B")
    room.member(ALICE, CAROL, types.INVITE)
    room.member(CAROL, CAROL, types.JOIN)


def test_who_lets_others_in_must_be_able_to_invite() -> None:
    room = new_room("11", types.RULE_RESTRICTED)
    room.levels(users={ALICE: 100}, invite=50)
    room.member(BOB, BOB, types.JOIN, join_authorised_via_users_server=ALICE)

    event = _member(room, CAROL, CAROL, types.JOIN, join_authorised_via_users_server=BOB)

    _refuse(room, event, "may not invite")


def _offer(room: Room, **keys: Any) -> None:
    room.add(ALICE, types.THIRD_PARTY_INVITE, {"display_name": "b", **keys}, "token")


@pytest.mark.parametrize("version", MODERN)
@pytest.mark.parametrize("several", [False, True])
def test_a_third_party_invite_is_proved_by_its_signature(version: str, several: bool) -> None:
    room = new_room(version, types.RULE_INVITE)
    public = IDENTITY.key.verify_key.base64
    entries = [{"public_key": "broken"}, {"public_key": public}]
    _offer(room, **({"public_keys": entries} if several else {"public_key": public}))
    signed = sign_json({"mxid": BOB, "token": "token"}, IDENTITY)
    stranger = Signer(IDENTITY.server_name, SigningKey.from_seed("0", bytes(range(32))))

    def invite(signed: Any, target: str = BOB) -> Event:
        return _member(room, ALICE, target, types.INVITE, third_party_invite={"signed": signed})

    _refuse(room, invite(None), "not signed")
    _refuse(room, invite({"mxid": BOB}), "lacks")
    _refuse(room, invite(signed, CAROL), "another user")
    _refuse(room, invite({**signed, "token": "other"}), "no such")
    _refuse(room, invite({**signed, "extra": 1}), "No signature")
    _refuse(room, invite(sign_json({"mxid": BOB, "token": "token"}, stranger)), "No signature")
    room.member(ALICE, BOB, types.INVITE, third_party_invite={"signed": signed})
    room.member(BOB, BOB, types.JOIN)


def test_only_who_may_invite_may_offer_third_party_invites() -> None:
    room = new_room("11")
    room.member(BOB, BOB, types.JOIN)
    room.levels(users={ALICE: 100}, invite=50)

    _refuse(room, room.draft(BOB, types.THIRD_PARTY_INVITE, {}, "t"), "invite needs power 50")
    room.add(ALICE, types.THIRD_PARTY_INVITE, {}, "t")


@pytest.mark.parametrize("version", MODERN)
def test_users_keys_are_their_own(version: str) -> None:
    room = new_room(version)
    room.levels(users={} if version == "12" else {ALICE: 100}, events={"org.x": 0})
    room.member(BOB, BOB, types.JOIN)

    room.add(BOB, "org.x", {}, BOB)
    room.add(BOB, "org.x", {}, "anything")
    _refuse(room, room.draft(BOB, "org.x", {}, ALICE), "another user")


@pytest.mark.parametrize("version", ALL)
def test_rooms_need_not_be_federated(version: str) -> None:
    room = new_room(version, types.RULE_PUBLIC, **{"m.federate": False})

    _refuse(room, _member(room, BOB, BOB, types.JOIN), "not federated")
    neighbour = UserID("@n:one.example")
    room.member(neighbour, neighbour, types.JOIN)


@pytest.mark.parametrize("version", ALL)
def test_aliases_had_a_rule_of_their_own(version: str) -> None:
    room = new_room(version)
    event = room.draft(CAROL, types.ALIASES, {"aliases": []}, "three.example")

    if room.rules.aliases_rule:
        check_auth(event, room.state)
        _refuse(room, room.draft(CAROL, types.ALIASES, {}, "one.example"), "own aliases")
    else:
        _refuse(room, event, "not in the room")


@pytest.mark.parametrize("version", ALL)
def test_redactions_by_room_version(version: str) -> None:
    room = new_room(version)
    room.member(BOB, BOB, types.JOIN)
    target = room.add(ALICE, types.MESSAGE, {"body": "x"})
    own = room.add(BOB, types.MESSAGE, {"body": "x"})
    power = power_levels_in(room.state)

    by_alice = room.draft(ALICE, types.REDACTION, {}, redacts=own.event_id)
    by_bob = room.draft(BOB, types.REDACTION, {}, redacts=target.event_id)
    his_own = room.draft(BOB, types.REDACTION, {}, redacts=own.event_id)

    for event in (by_alice, by_bob, his_own):
        check_auth(event, room.state)
    assert redaction_applies(by_alice, own, power)
    assert redaction_applies(his_own, own, power)
    assert redaction_applies(by_bob, target, power) == room.rules.redaction_auth_rule
    assert not redaction_applies(by_bob, own, power)


def test_old_rooms_refuse_redactions_of_other_servers_events() -> None:
    room = new_room("2")
    room.member(BOB, BOB, types.JOIN)
    event = room.draft(BOB, types.REDACTION, {}, redacts=room.events[0].event_id)

    foreign = parse_pdu({**event.pdu, "event_id": "$x:two.example"}, room.rules)

    _refuse(room, foreign, "redact")


def _create(version: str, **content: Any) -> Event:
    return Room(version).draft(ALICE, types.CREATE, content, "")


@pytest.mark.parametrize("version", ALL)
def test_what_a_create_event_must_be(version: str) -> None:
    rules = ROOM_VERSIONS[version]
    event = _create(version, creator=ALICE, room_version=version)
    elsewhere = Room(version).draft(BOB, types.CREATE, {"creator": BOB}, "")
    references = [["$a:b", {}]] if version in ("1", "2") else ["$a"]
    second = parse_pdu({**event.pdu, "prev_events": references}, rules)

    check_auth(event, {})
    _refuse(Room(version), second, "not the first")
    _refuse(Room(version), _create(version, creator=ALICE, room_version="99"), "version")
    if not rules.implicit_creator:
        _refuse(Room(version), _create(version), "names no creator")
    if not rules.room_id_is_create_hash:
        _refuse(Room(version), elsewhere, "creator's server")


def test_version_12_makes_the_room_id_of_the_create_event() -> None:
    room = new_room("12")
    other = new_room("12", type="m.space")
    with_id = parse_pdu({**_create("12").pdu, "room_id": "!a:b"}, room.rules)

    _refuse(room, with_id, "room_id")
    with pytest.raises(Forbidden, match="room ID"):
        check_auth(room.events[1], other.state)
    wrong: list[Any] = ["x", ["x"], [3], {}]
    for additional in wrong:
        _refuse(Room("12"), _create("12", additional_creators=additional), "additional")
    check_auth(_create("12", additional_creators=[BOB]), {})


def test_without_a_create_event_nothing_is_allowed() -> None:
    _refuse(Room("11"), new_room("11").events[1], "no create event")


def test_which_state_an_event_cites() -> None:
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


def test_wrongly_cited_events_are_refused() -> None:
    room = new_room("11")
    event = room.draft(ALICE, types.MESSAGE, {})
    create, member, levels, join_rules = room.events
    other = new_room("11", type="m.space").events[0]
    moved = parse_pdu({**other.pdu, "room_id": "!other:one.example"}, room.rules)

    check_auth_events_selection(event, [create, member, levels])
    for cited, match in (
        ([create, create, member], "twice"),
        ([create, join_rules], "not for this event"),
        ([member, levels], "lack the create"),
        ([moved, member], "another room"),
    ):
        with pytest.raises(Forbidden, match=match):
            check_auth_events_selection(event, cited)
    with pytest.raises(Forbidden, match="rejected"):
        check_auth_events_selection(event, [create, member], {member.event_id})


def test_version_12_does_not_cite_the_create_event() -> None:
    room = new_room("12")
    event = room.draft(ALICE, types.MESSAGE, {})
    create, member, levels, _ = room.events

    check_auth_events_selection(event, [member, levels])
    with pytest.raises(Forbidden, match="not for this event"):
        check_auth_events_selection(event, [create, member])
