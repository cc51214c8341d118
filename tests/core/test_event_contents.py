"""The form of the contents that users of this server may send."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.errors import BadJson, InvalidParam
from hs.core.event_contents import FIELDS, check_content, check_levels
from hs.core.ids import UserID
from hs.core.versions import room_version

ALICE = UserID("@alice:test.example")
MEGOLM = "m.megolm.v1.aes-sha2"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
VALID: list[tuple[str, str | None, dict[str, Any]]] = [
    ("m.room.message", None, {"msgtype": "m.text", "body": ""}),
    ("m.room.message", None, {"msgtype": "org.example", "body": "x", "format": 1}),
    ("m.room.name", "", {"name": "Tea"}),
    ("m.room.name", "", {"name": None}),
    ("m.room.name", "", {}),
    ("m.room.topic", "", {"topic": "x", "m.topic": {"m.text": [{"body": "x"}]}}),
    ("m.room.topic", "", {"topic": "x", "m.topic": [{"body": "x", "mimetype": "text/html"}]}),
    ("m.room.avatar", "", {}),
    ("m.room.avatar", "", {"url": None}),
    ("m.room.avatar", "", {"url": "mxc://a/b", "info": {"w": 1}}),
    ("m.room.canonical_alias", "", {"alias": None, "alt_aliases": ["#a:b"]}),
    ("m.room.power_levels", "", {"users": {ALICE: 100}, "events": {"m.x": 5}, "ban": -1}),
    ("m.room.power_levels", "", {"users": {ALICE: "100"}, "ban": "50"}),
    ("m.room.join_rules", "", {"join_rule": "public"}),
    ("m.room.join_rules", "", {"join_rule": "restricted", "allow": [{"type": "m.x"}]}),
    ("m.room.history_visibility", "", {"history_visibility": "world_readable"}),
    ("m.room.guest_access", "", {"guest_access": "can_join"}),
    ("m.room.encryption", "", {"algorithm": MEGOLM, "rotation_period_ms": 1}),
    ("m.room.tombstone", "", {"body": "moved", "replacement_room": "!a:b"}),
    ("m.room.tombstone", "", {}),
    ("m.room.server_acl", "", {"allow": ["*"], "deny": ["evil.com"], "allow_ip_literals": False}),
    ("m.room.server_acl", "", {"allow": ["*"], "allow_ip_literals": "false"}),
]
INVALID: list[tuple[str, str | None, dict[str, Any]]] = [
    ("m.room.message", None, {}),
    ("m.room.message", None, {"body": "x"}),
    ("m.room.message", None, {"msgtype": "m.text"}),
    ("m.room.message", None, {"msgtype": "m.text", "body": None}),
    ("m.room.message", None, {"msgtype": 1, "body": "x"}),
    ("m.room.name", "", {"name": 5}),
    ("m.room.topic", "", {"topic": ["x"]}),
    ("m.room.topic", "", {"topic": "x", "m.topic": "x"}),
    ("m.room.topic", "", {"topic": "x", "m.topic": {"m.text": [{"body": 1}]}}),
    ("m.room.avatar", "", {"url": {"x": 1}}),
    ("m.room.canonical_alias", "", {"alias": 1}),
    ("m.room.canonical_alias", "", {"alt_aliases": [1]}),
    ("m.room.power_levels", "", {"users": {ALICE: "many"}}),
    ("m.room.power_levels", "", {"users": {"alice": 100}}),
    ("m.room.power_levels", "", {"users": []}),
    ("m.room.power_levels", "", {"ban": True}),
    ("m.room.power_levels", "", {"notifications": {"room": None}}),
    ("m.room.join_rules", "", {}),
    ("m.room.join_rules", "", {"join_rule": "Public"}),
    ("m.room.join_rules", "", {"join_rule": "restricted", "allow": {"type": "m.x"}}),
    ("m.room.join_rules", "", {"join_rule": "restricted", "allow": [{"room_id": "!a:b"}]}),
    ("m.room.history_visibility", "", {"history_visibility": ["shared"]}),
    ("m.room.guest_access", "", {"guest_access": True}),
    ("m.room.encryption", "", {}),
    ("m.room.encryption", "", {"algorithm": MEGOLM, "rotation_period_ms": "1"}),
    ("m.room.tombstone", "", {"replacement_room": 1}),
    ("m.room.server_acl", "", {}),
    ("m.room.server_acl", "", {"allow": []}),
    ("m.room.server_acl", "", {"allow": "*"}),
    ("m.room.server_acl", "", {"allow": ["*"], "deny": ["TEST.*"]}),
]


@pytest.mark.parametrize(("event_type", "state_key", "content"), VALID)
def test_content_by_specification_passes(
    event_type: str, state_key: str | None, content: dict[str, Any]
) -> None:
    check_content(ALICE, event_type, state_key, content)


@pytest.mark.parametrize(("event_type", "state_key", "content"), INVALID)
def test_content_against_specification_is_rejected(
    event_type: str, state_key: str | None, content: dict[str, Any]
) -> None:
    with pytest.raises(BadJson):
        check_content(ALICE, event_type, state_key, content)


@pytest.mark.parametrize(
    "content", [{"users": {ALICE: "100"}}, {"ban": "50"}, {"notifications": {"room": "50"}}]
)
def test_levels_may_be_text_only_before_version_10(content: dict[str, Any]) -> None:
    check_levels(content, room_version("9"))

    with pytest.raises(BadJson):
        check_levels(content, room_version("10"))


@pytest.mark.parametrize("state_key", ["", "again", None])
def test_second_create_event_is_rejected(state_key: str | None) -> None:
    with pytest.raises(InvalidParam):
        check_content(ALICE, "m.room.create", state_key, {})


def test_acl_may_deny_ip_literals_only_if_this_server_has_a_name() -> None:
    content = {"allow": ["*"], "allow_ip_literals": False}

    with pytest.raises(BadJson):
        check_content(UserID("@alice:192.0.2.1:8448"), "m.room.server_acl", "", content)


@given(st.sampled_from(VALID), st.dictionaries(st.text(min_size=1), JSON, max_size=3))
def test_unknown_fields_pass(
    valid: tuple[str, str | None, dict[str, Any]], unknown: dict[str, Any]
) -> None:
    event_type, state_key, content = valid
    names = {field.name for field in FIELDS[event_type, state_key]}
    added = {name: value for name, value in unknown.items() if name not in names}

    check_content(ALICE, event_type, state_key, {**content, **added})


@given(st.sampled_from(sorted(FIELDS, key=str)), st.data())
def test_any_content_passes_or_is_bad_json(
    key: tuple[str, str | None], data: st.DataObject
) -> None:
    names = [field.name for field in FIELDS[key]]
    content = data.draw(st.dictionaries(st.sampled_from(names), JSON))

    with suppress(BadJson):
        check_content(ALICE, *key, content)


@given(st.sampled_from(VALID), st.text(min_size=1), st.dictionaries(st.text(), JSON, max_size=3))
def test_state_that_the_server_does_not_read_passes(
    valid: tuple[str, str | None, dict[str, Any]], state_key: str, content: dict[str, Any]
) -> None:
    check_content(ALICE, valid[0], state_key, content)
