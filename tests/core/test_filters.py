"""Filters: validation at upload, and which events pass."""

from typing import Any

import pytest

from hs.core.errors import BadJson
from hs.core.filters import (
    ANY_EVENT,
    NO_FILTER,
    parse_event_filter,
    parse_sync_filter,
    project,
)
from hs.core.property_paths import parse_property_path

BOB = "@bob:here"


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"presence": "x"},
        {"account_data": []},
        {"room": []},
        {"room": {"timeline": "x"}},
        {"room": {"rooms": "x"}},
        {"room": {"not_rooms": ["room"]}},
        {"room": {"timeline": {"rooms": "!x:here"}}},
        {"room": {"timeline": {"senders": ["bob"]}}},
        {"room": {"timeline": {"not_senders": [1]}}},
        {"room": {"timeline": {"types": [1]}}},
        {"room": {"timeline": {"limit": "5"}}},
        {"room": {"timeline": {"limit": True}}},
        {"room": {"timeline": {"limit": -1}}},
        {"room": {"state": {"lazy_load_members": "true"}}},
        {"room": {"state": {"lazy_load_members": 1}}},
        {"room": {"include_leave": 0}},
        {"event_format": "raw"},
        {"event_fields": "type"},
        {"event_fields": ["a\0"]},
    ],
)
def test_malformed_filters_are_rejected(value: object) -> None:
    with pytest.raises(BadJson):
        parse_sync_filter(value)


def test_empty_filter_allows_every_event() -> None:
    assert parse_sync_filter({"unknown": 1, "room": {}}) == NO_FILTER
    assert ANY_EVENT.allows_everything
    assert not ANY_EVENT.allows_nothing
    assert ANY_EVENT.allows("m.x", None, {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"types": ["m.room.message"]}, True),
        ({"types": ["m.room.*"]}, True),
        ({"types": ["*.message"]}, True),
        ({"types": ["m.*.mess*e"]}, True),
        ({"types": ["M.ROOM.*"]}, False),
        ({"types": ["m.room.messag?"]}, False),
        ({"types": []}, False),
        ({"types": ["*"], "not_types": ["m.room.*"]}, False),
        ({"senders": [BOB]}, True),
        ({"senders": []}, False),
        ({"senders": [BOB], "not_senders": [BOB]}, False),
        ({"contains_url": True}, True),
        ({"contains_url": False}, False),
    ],
)
def test_filter_by_type_sender_and_url(value: dict[str, Any], expected: bool) -> None:
    event_filter = parse_event_filter(value)

    assert event_filter.allows("m.room.message", BOB, {"url": "mxc://x/y"}) is expected


def test_filter_by_rooms_and_not_rooms() -> None:
    sync_filter = parse_sync_filter({"room": {"rooms": ["!a:x", "!b:x"], "not_rooms": ["!b:x"]}})

    assert [room for room in ("!a:x", "!b:x", "!c:x") if sync_filter.room.allows_room(room)] == [
        "!a:x"
    ]


def test_filter_by_relations_needs_child_events() -> None:
    thread = parse_event_filter({"related_by_rel_types": ["m.thread"], "related_by_senders": [BOB]})

    assert thread.needs_children
    assert not ANY_EVENT.needs_children
    assert thread.allows_children([("m.thread", BOB)])
    assert not thread.allows_children([("m.thread", "@x:here"), ("m.annotation", BOB)])


def test_limit_is_capped_at_maximum() -> None:
    assert ANY_EVENT.limit_within(10, 100) == 10
    assert parse_event_filter({"limit": 1000}).limit_within(10, 100) == 100
    assert parse_event_filter({"limit": 0}).allows_nothing


@pytest.mark.parametrize("value", [{"types": []}, {"senders": []}, {"rooms": []}])
def test_empty_lists_allow_nothing(value: dict[str, Any]) -> None:
    assert parse_event_filter(value).allows_nothing
    assert not parse_event_filter(value).allows_everything


def test_lazy_loading_and_limit_do_not_exclude_events() -> None:
    assert parse_event_filter({"lazy_load_members": True, "limit": 5}).allows_everything


def test_project_keeps_only_requested_fields() -> None:
    event = {"type": "m.x", "sender": BOB, "content": {"a.b": 1, "c": {"d": 2, "e": 3}}}
    copy = {**event, "content": {"a.b": 1, "c": {"d": 2, "e": 3}}}

    def projected(*fields: str) -> dict[str, Any]:
        return project(event, [parse_property_path(field) for field in fields])

    assert projected("type", r"content.a\.b") == {"type": "m.x", "content": {"a.b": 1}}
    assert projected("content.c.d", "content.missing", "type.x") == {"content": {"c": {"d": 2}}}
    assert projected("content", "content.c.d") == {"content": event["content"]}
    assert event == copy
