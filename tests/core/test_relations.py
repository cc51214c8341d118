"""Relations: parsing, valid edits, and the threads of events."""

from typing import Any

import pytest

from hs.core.errors import Unknown
from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.relations import (
    Relation,
    check_may_relate,
    is_valid_replacement,
    latest_replacement,
    relation_of,
    reply_target,
    thread_of,
)
from tests.support.inputs.plain_events import plain_event

ROOT = EventID("$root")


def related(**fields: object) -> dict[str, Any]:
    return {"m.relates_to": fields}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (related(rel_type="m.thread", event_id=ROOT), Relation("m.thread", ROOT)),
        (
            related(rel_type="m.annotation", event_id=ROOT, key="👍"),
            Relation("m.annotation", ROOT, "👍"),
        ),
        (related(event_id=ROOT), None),
        (related(rel_type="m.thread"), None),
        (related(rel_type="m.thread", event_id="root"), None),
        (related(rel_type=1, event_id=ROOT), None),
        ({"m.relates_to": "x"}, None),
        ({}, None),
    ],
)
def test_malformed_relations_are_ignored(content: dict[str, Any], expected: object) -> None:
    assert relation_of(content) == expected


def test_reply_is_not_a_relation() -> None:
    content = {"m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}}

    assert reply_target(content) == "$x"
    assert relation_of(content) is None
    assert reply_target({"m.relates_to": {"m.in_reply_to": "$x"}}) is None


def test_thread_is_found_within_three_relations() -> None:
    chain: dict[EventID, Relation | None] = {
        EventID("$3"): Relation("m.reference", EventID("$2")),
        EventID("$2"): Relation("m.annotation", EventID("$1")),
        EventID("$1"): Relation("m.thread", ROOT),
    }

    assert thread_of(Relation("m.thread", ROOT), {}) == ROOT
    assert thread_of(Relation("m.annotation", EventID("$2")), chain) == ROOT
    assert thread_of(Relation("m.annotation", EventID("$3")), chain) is None
    assert thread_of(None, chain) is None


def test_thread_cannot_start_from_event_with_relation() -> None:
    thread = Relation("m.thread", ROOT)

    check_may_relate(thread, None)
    check_may_relate(Relation("m.reference", ROOT), thread)
    with pytest.raises(Unknown):
        check_may_relate(thread, Relation("m.annotation", EventID("$x")))


def message(event_id: str, content: dict[str, Any], **fields: Any) -> Event:
    options = {"sender": "@alice:here", "event_type": "m.room.message", **fields}
    return plain_event(event_id=event_id, content=content, **options)


def edit(event_id: str = "$edit", **fields: Any) -> Event:
    content = {**related(rel_type="m.replace", event_id=ROOT), "m.new_content": {"body": "y"}}
    return message(event_id, {**content, **fields.pop("content", {})}, **fields)


ORIGINAL = message("$root", {"body": "x"})


@pytest.mark.parametrize(
    ("original", "replacement", "expected"),
    [
        (ORIGINAL, edit(), True),
        (ORIGINAL, edit(sender="@bob:here"), False),
        (ORIGINAL, edit(event_type="m.sticker"), False),
        (ORIGINAL, edit(room_id="!other:here"), False),
        (ORIGINAL, edit(state_key=""), False),
        (ORIGINAL, edit(content={"m.new_content": "y"}), False),
        (ORIGINAL, edit(content=related(rel_type="m.replace", event_id="$other")), False),
        (message("$root", related(rel_type="m.replace", event_id="$0")), edit(), False),
        (message("$root", related(rel_type="m.thread", event_id="$0")), edit(), True),
    ],
)
def test_only_valid_edits_replace_the_original(
    original: Event, replacement: Event, expected: bool
) -> None:
    assert is_valid_replacement(original, replacement) is expected


def test_latest_edit_wins_and_greater_event_id_breaks_ties() -> None:
    edits = [
        edit("$a", origin_server_ts=5),
        edit("$b", origin_server_ts=7),
        edit("$c", origin_server_ts=7),
        edit("$d", origin_server_ts=9, sender="@bob:here"),
    ]

    assert latest_replacement(ORIGINAL, edits) == edits[2]
    assert latest_replacement(ORIGINAL, []) is None
