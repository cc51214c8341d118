"""Identifiers: what the grammars accept and reject."""

import pytest

from hs.core import ids
from hs.core.errors import InvalidParam


@pytest.mark.parametrize(
    "name",
    ["matrix.org", "matrix.org:8888", "1.2.3.4", "1.2.3.4:1234", "[1234:5678::abcd]", "[::1]:5678"],
)
def test_server_names_of_the_specification_are_valid(name: str) -> None:
    assert ids.parse_server_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":80",
        "a b",
        "a.b:",
        "a.b:123456",
        "1.2.3.400",
        "[zz::1]",
        "[::1",
        "a/b",
        "é.org",
        None,
        3,
        "a" * 256,
        "a.b\n",
    ],
)
def test_invalid_server_names_are_rejected(name: object) -> None:
    with pytest.raises(InvalidParam):
        ids.parse_server_name(name)


@pytest.mark.parametrize("user_id", ["@a:b", "@A B!:b.c:80", "@:b", "@é:b", "@\x01:b"])
def test_historical_user_ids_are_accepted(user_id: str) -> None:
    assert ids.parse_user_id(user_id) == user_id


@pytest.mark.parametrize(
    "user_id", ["", "@", "a:b", "@a", "@a:", "@a:b:c", "@a\0:b", "@\ud800:b", None, 1]
)
def test_invalid_user_ids_are_rejected(user_id: object) -> None:
    with pytest.raises(InvalidParam):
        ids.parse_user_id(user_id)


def test_strict_user_ids_reject_historical_characters() -> None:
    assert ids.parse_strict_user_id("@a.b_c=d-e/f+1:x") == "@a.b_c=d-e/f+1:x"
    for user_id in ("@A:x", "@:x", "@a b:x", "@é:x"):
        with pytest.raises(InvalidParam):
            ids.parse_strict_user_id(user_id)


def test_identifiers_longer_than_255_bytes_are_rejected() -> None:
    assert ids.parse_user_id("@" + "a" * 252 + ":b")
    for user_id in ("@" + "a" * 253 + ":b", "@" + "é" * 127 + ":b"):
        with pytest.raises(InvalidParam):
            ids.parse_user_id(user_id)


def test_room_ids_have_a_domain_or_are_hashes() -> None:
    hashed = "!" + "A_-b" * 10 + "xyz"

    assert ids.parse_room_id("!a:b.c") == "!a:b.c"
    assert ids.parse_room_id(hashed) == hashed
    assert ids.is_room_hash(hashed)
    assert not ids.is_room_hash("!a:b.c")
    for room_id in ("!", "#a:b", "!a:", "a"):
        with pytest.raises(InvalidParam):
            ids.parse_room_id(room_id)


def test_event_ids_and_aliases_are_parsed() -> None:
    assert ids.parse_event_id("$abc/+d") == "$abc/+d"
    assert ids.parse_event_id("$abc:d") == "$abc:d"
    assert ids.parse_room_alias("#a b:c") == "#a b:c"
    for alias in ("#:c", "#a", "a:c"):
        with pytest.raises(InvalidParam):
            ids.parse_room_alias(alias)


def test_identifiers_are_split_at_first_colon() -> None:
    user_id = ids.parse_user_id("@a:b.c:80")

    assert (ids.localpart_of(user_id), ids.server_of(user_id)) == ("a", "b.c:80")
    assert ids.server_in(ids.EventID("$x:b:1")) == "b:1"
    assert ids.server_in(ids.RoomID("!hash")) is None
