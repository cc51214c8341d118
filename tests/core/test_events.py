"""Events: building, hashing, signing, parsing and redaction."""

from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.core.errors import BadJson, InvalidEvent, InvalidSignature, TooLarge
from hs.core.events import types
from hs.core.events.build import countersign, sign_template
from hs.core.events.event import Event, load_event
from hs.core.events.format import parse_pdu
from hs.core.events.hashes import (
    content_hash,
    essential_bytes,
    event_id_of,
    has_valid_content_hash,
    redacted_unless_hash_matches,
)
from hs.core.events.redaction import redact, redact_pdu
from hs.core.events.signatures import check_event_signature, required_signers
from hs.core.ids import EventID, ServerName
from hs.core.signing.keys import Signer, SigningKey
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import ROOM_VERSIONS
from tests.core.room_builder import ALICE, BOB, SIGNER, Room, new_room
from tests.core.test_signing import SIGNER as SPEC_SIGNER

KEYS = {SIGNER.key.key_id: SIGNER.key.verify_key}
ALL_VERSIONS = list(ROOM_VERSIONS)

_MINIMAL: dict[str, Any] = {
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "signatures": {},
    "hashes": {},
    "type": "X",
    "content": {},
    "prev_events": [],
    "auth_events": [],
    "depth": 3,
    "unsigned": {"age_ts": 1000000},
}
_REDACTABLE: dict[str, Any] = {
    "content": {"body": "Here is the message content"},
    "event_id": "$0:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "type": "m.room.message",
    "room_id": "!r:domain",
    "sender": "@u:domain",
    "signatures": {},
    "unsigned": {"age_ts": 1000000},
}


@pytest.mark.parametrize(
    ("pdu", "digest", "signature"),
    [
        (
            _MINIMAL,
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            _REDACTABLE,
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_event_signing_vectors_of_the_specification(
    pdu: dict[str, Any], digest: str, signature: str
) -> None:
    rules = ROOM_VERSIONS["1"]

    hashed = encode_base64(content_hash(pdu, rules))
    signed = SPEC_SIGNER.key.sign(essential_bytes({**pdu, "hashes": {"sha256": hashed}}, rules))

    assert hashed == digest
    assert signed == signature


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_built_event_passes_checks_of_other_servers(version: str) -> None:
    room = new_room(version)

    room.add(ALICE, types.MESSAGE, {"body": "hi", "n": [1, {"é": None}]})

    for event in room.events:
        received = parse_pdu({**event.pdu, "unsigned": {"age": 1}}, room.rules)
        for field in ("event_id", "room_id", "content", "prev_events", "auth_events", "canonical"):
            assert getattr(received, field) == getattr(event, field)
        assert has_valid_content_hash(received)
        assert required_signers(received) == {"one.example"}
        check_event_signature(received, ServerName("one.example"), KEYS)
        stored = load_event(event.event_id, event.canonical, room.rules)
        for name in (field.name for field in attrs.fields(Event)):
            assert getattr(stored, name) == getattr(event, name)
        assert orjson.loads(stored.content_json()) == event.content


def test_event_ids_have_format_of_room_version() -> None:
    created = {version: new_room(version).events[0] for version in ALL_VERSIONS}

    assert created["2"].event_id == "$0:one.example"
    assert "event_id" not in created["3"].pdu
    assert len(created["4"].event_id) == 44
    assert created["12"].room_id == "!" + created["12"].event_id[1:]
    assert "room_id" not in created["12"].pdu
    assert created["11"].room_id == "!room:one.example"


def test_references_contain_hashes_in_version_2() -> None:
    room = new_room("2")

    pairs = room.events[1].pdu["prev_events"]

    assert pairs == [["$0:one.example", {"sha256": pairs[0][1]["sha256"]}]]
    assert room.events[1].prev_events == ("$0:one.example",)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
_KEYS = st.sampled_from(["membership", "users", "creator", "allow", "invite", "third_party_invite"])
_CONTENT = st.dictionaries(_KEYS | st.text(max_size=8), _VALUES, max_size=5)
_TYPES = st.sampled_from([types.MEMBER, types.POWER_LEVELS, types.JOIN_RULES, types.MESSAGE])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ALL_VERSIONS), _TYPES, _CONTENT)
def test_redaction_preserves_event_id_and_signature(
    version: str, event_type: str, content: dict[str, Any]
) -> None:
    room = Room(version)
    room.add(ALICE, types.CREATE, {"creator": ALICE, "room_version": version}, "")
    event = room.draft(ALICE, event_type, content, "")

    redacted = redact(event)

    assert event_id_of(redacted.pdu, room.rules) == event.event_id
    assert parse_pdu(redacted.pdu, room.rules).event_id == event.event_id
    check_event_signature(redacted, ServerName("one.example"), KEYS)
    assert redact(redacted).canonical == redacted.canonical
    assert has_valid_content_hash(event)
    assert has_valid_content_hash(redacted) == (redacted.pdu == event.pdu)


def test_event_with_wrong_content_hash_is_redacted() -> None:
    room = new_room("11")
    event = room.add(ALICE, types.MESSAGE, {"body": "hi"})

    changed = parse_pdu({**event.pdu, "content": {"body": "ho"}}, room.rules)

    assert changed.event_id == event.event_id
    assert redacted_unless_hash_matches(changed).content == {}
    assert redacted_unless_hash_matches(event) is event


def test_changed_essential_field_invalidates_signature() -> None:
    room = new_room("11")
    event = parse_pdu({**room.events[-1].pdu, "depth": 77}, room.rules)

    with pytest.raises(InvalidSignature):
        check_event_signature(event, ServerName("one.example"), KEYS)


_CONTENTS = {
    types.MEMBER: {
        "membership": "join",
        "displayname": "x",
        "join_authorised_via_users_server": "@a:b",
        "third_party_invite": {"signed": {"token": "t"}, "display_name": "d"},
    },
    types.CREATE: {"creator": "@a:b", "room_version": "1", "m.federate": False},
    types.JOIN_RULES: {"join_rule": "public", "allow": [], "x": 1},
    types.POWER_LEVELS: {"users": {}, "ban": 1, "invite": 2, "notifications": {}},
    types.ALIASES: {"aliases": ["#a:b"], "x": 1},
    types.HISTORY_VISIBILITY: {"history_visibility": "shared", "x": 1},
    types.REDACTION: {"redacts": "$x", "reason": "r"},
    types.MESSAGE: {"body": "x"},
}
_MEMBER_V9 = {"membership", "join_authorised_via_users_server"}


@pytest.mark.parametrize(
    ("event_type", "retained"),
    [
        (
            types.MEMBER,
            {"1": {"membership"}, "9": _MEMBER_V9, "11": _MEMBER_V9 | {"third_party_invite"}},
        ),
        (types.CREATE, {"1": {"creator"}, "11": {"creator", "room_version", "m.federate"}}),
        (types.JOIN_RULES, {"1": {"join_rule"}, "8": {"join_rule", "allow"}}),
        (types.POWER_LEVELS, {"1": {"users", "ban"}, "11": {"users", "ban", "invite"}}),
        (types.ALIASES, {"1": {"aliases"}, "6": set()}),
        (types.HISTORY_VISIBILITY, {"1": {"history_visibility"}}),
        (types.REDACTION, {"1": set(), "11": {"redacts"}}),
        (types.MESSAGE, {"1": set()}),
    ],
)
def test_redaction_keeps_content_keys_of_room_version(
    event_type: str, retained: dict[str, set[str]]
) -> None:
    expected: set[str] = set()
    for version in ALL_VERSIONS:
        expected = retained.get(version, expected)
        pdu = {"type": event_type, "content": _CONTENTS[event_type]}

        redacted = redact_pdu(pdu, ROOM_VERSIONS[version])

        assert set(redacted["content"]) == expected, version
        if "third_party_invite" in expected:
            assert redacted["content"]["third_party_invite"] == {"signed": {"token": "t"}}


def test_redaction_keeps_top_level_keys_of_room_version() -> None:
    essential = {"type": "x", "content": {}, "sender": "@a:b", "hashes": {}, "auth_events": []}
    legacy = {"origin": "b", "membership": "join", "prev_state": []}
    pdu = {**essential, **legacy, "redacts": "$x", "unsigned": {}, "foo": 1}

    assert redact_pdu(pdu, ROOM_VERSIONS["10"]) == {**essential, **legacy}
    assert redact_pdu(pdu, ROOM_VERSIONS["11"]) == essential


@pytest.mark.parametrize("version", ["1", "3", "12"])
@pytest.mark.parametrize(
    "change",
    [
        {"sender": "alice"},
        {"sender": None},
        {"type": 3},
        {"type": "x" * 256},
        {"state_key": "é" * 128},
        {"state_key": None},
        {"type": "a\0b"},
        {"content": []},
        {"depth": -1},
        {"depth": True},
        {"depth": "1"},
        {"depth": 2**63},
        {"origin_server_ts": "now"},
        {"prev_events": "x"},
        {"prev_events": [3]},
        {"prev_events": [["$a:b", {}, 1]]},
        {"auth_events": ["x"]},
        {"auth_events": {}},
        {"hashes": 3},
        {"signatures": {"x": 3}},
        {"signatures": None},
        {"room_id": "#a:b"},
        {"room_id": 3},
        {"content": {"body": "x" * 65536}},
    ],
)
def test_malformed_pdus_are_rejected(version: str, change: dict[str, Any]) -> None:
    room = new_room(version)
    event = room.add(ALICE, types.TOPIC, {"topic": "x"}, "")

    with pytest.raises(InvalidEvent):
        parse_pdu({**event.pdu, **change}, room.rules)


@pytest.mark.parametrize("value", [1.5, 2**53])
def test_only_versions_before_6_accept_floats_and_large_integers(value: float) -> None:
    for version in ALL_VERSIONS:
        room = new_room(version)
        pdu = {**room.events[-1].pdu, "content": {"x": value}}
        if room.rules.strict_canonical_json:
            with pytest.raises(InvalidEvent):
                parse_pdu(pdu, room.rules)
            with pytest.raises(BadJson):
                room.add(ALICE, types.MESSAGE, {"x": value})
        else:
            assert parse_pdu(pdu, room.rules).content == {"x": value}


def test_pdu_with_too_many_references_is_rejected() -> None:
    room = new_room("11")
    pdu = room.events[-1].pdu
    event_id = room.events[0].event_id

    parse_pdu({**pdu, "prev_events": [event_id] * 20, "auth_events": [event_id] * 10}, room.rules)
    for change in ({"prev_events": [event_id] * 21}, {"auth_events": [event_id] * 11}):
        with pytest.raises(InvalidEvent):
            parse_pdu({**pdu, **change}, room.rules)


@pytest.mark.parametrize(
    ("event_type", "state_key", "content"),
    [
        (types.MESSAGE, None, {"body": "x" * 65500}),
        ("é" * 128, None, {}),
        (types.TOPIC, "x" * 256, {}),
    ],
)
def test_building_too_large_event_raises_too_large(
    event_type: str, state_key: str | None, content: Any
) -> None:
    with pytest.raises(TooLarge):
        new_room("11").draft(ALICE, event_type, content, state_key)


def test_redacts_is_placed_as_room_version_requires() -> None:
    target = EventID("$target")
    for version in ALL_VERSIONS:
        room = new_room(version)

        event = room.draft(ALICE, types.REDACTION, {"reason": "r"}, redacts=target)

        assert event.redacts == target
        assert ("redacts" in event.pdu) != room.rules.redacts_in_content


def test_signed_template_can_be_countersigned() -> None:
    room = new_room("11")
    template = {
        **room.draft(BOB, types.MEMBER, {"membership": "join"}, BOB).pdu,
        "event_id": "$nonsense",
        "origin": "two.example",
    }
    bob_signer = Signer(ServerName("two.example"), SigningKey.from_seed("b", bytes(32)))

    event = sign_template(template, room.rules, bob_signer)
    both = countersign(event, SIGNER)

    assert set(event.pdu["signatures"]) == {"two.example"}
    assert has_valid_content_hash(event)
    assert "event_id" not in event.pdu
    assert parse_pdu(both.pdu, room.rules).event_id == event.event_id
    check_event_signature(both, ServerName("one.example"), KEYS)
    check_event_signature(both, ServerName("two.example"), {"ed25519:b": bob_signer.key.verify_key})
    with pytest.raises(InvalidEvent):
        sign_template({**template, "sender": "x"}, room.rules, bob_signer)


def test_required_signers_by_kind_of_event() -> None:
    room = new_room("8")
    authorised = {"membership": "join", "join_authorised_via_users_server": BOB}
    invite = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    third_party = room.draft(ALICE, types.MEMBER, invite, BOB)
    changed = parse_pdu({**third_party.pdu, "hashes": {}}, room.rules)

    joined = required_signers(room.draft(ALICE, types.MEMBER, authorised, ALICE))

    assert joined == {"one.example", "two.example"}
    assert required_signers(third_party) == frozenset()
    # If redaction would remove `third_party_invite`, the sender's server must have signed.
    assert required_signers(changed) == {"one.example"}
