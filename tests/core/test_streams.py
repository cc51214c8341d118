"""The declarations of streams agree with each other."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict as as_dict

from hs.core.positions import EpochPosition, VectorPosition
from hs.core.stream_def import StreamDef, StreamKind
from hs.core.streams import (
    BACKFILL,
    CACHES,
    CATALOGUE,
    DESTINATIONS,
    EVENTS,
    FEDERATION,
    PUSHERS,
    PUSHES,
    RECEIPTS,
    THREAD_SUBSCRIPTIONS,
    TYPING,
    UNREAD,
    EventRow,
    ReceiptRow,
    ThreadSubscriptionRow,
    TypingRow,
    without_pdu,
)
from hs.core.sync_token import SYNCED_STREAMS, SyncToken

by_stream = pytest.mark.parametrize("stream", CATALOGUE, ids=lambda stream: stream.name)


def test_catalogue_has_all_streams_in_the_order_of_declaration() -> None:
    names = [stream.name for stream in CATALOGUE]

    assert len(set(names)) == len(names)
    assert CATALOGUE[:2] == (EVENTS, BACKFILL)
    assert CATALOGUE[-1] is CACHES
    assert {THREAD_SUBSCRIPTIONS, PUSHERS, FEDERATION, DESTINATIONS} < set(CATALOGUE)


@by_stream
def test_exactly_the_streams_that_sync_follows_wake_long_polls(stream: StreamDef[Any]) -> None:
    wakes = bool(stream.wake_rule or stream.wakes_users or stream.wakes_rooms)

    assert wakes == (stream in SYNCED_STREAMS)


@by_stream
def test_wake_rule_excludes_lists_of_users_and_rooms(stream: StreamDef[Any]) -> None:
    assert stream.wake_rule is None or not (stream.wakes_users or stream.wakes_rooms)


@pytest.mark.parametrize("stream", SYNCED_STREAMS, ids=lambda stream: stream.name)
def test_memory_streams_have_an_epoch_in_the_sync_token(stream: StreamDef[Any]) -> None:
    slot_type = EpochPosition if stream.kind is StreamKind.MEMORY else VectorPosition

    assert type(getattr(SyncToken(), stream.name)) is slot_type


@by_stream
def test_writers_are_those_of_a_stream_with_the_same_rule(stream: StreamDef[Any]) -> None:
    (leader,) = (other for other in CATALOGUE if other.name == (stream.written_with or stream.name))

    assert leader.writers is stream.writers
    assert leader.written_with is None


def test_stream_writers_names_streams_by_their_own_name_or_that_of_another() -> None:
    assert BACKFILL.writer_setting == EVENTS.writer_setting == "events"
    assert RECEIPTS.writer_setting == "receipts"
    assert PUSHES.writer_setting == UNREAD.writer_setting == "unread"
    assert CACHES.writer_setting is None


@given(st.builds(EventRow, pdu=st.none() | st.binary(), number=st.integers()))
def test_row_without_pdu_is_the_same_otherwise(row: EventRow) -> None:
    assert as_dict(without_pdu(row)) == {**as_dict(row), "pdu": None}


@given(st.text(), st.text())
def test_rows_name_the_users_and_rooms_that_they_wake(user_id: str, room_id: str) -> None:
    public = ReceiptRow(room_id, "m.read", user_id, "$e", None, ts=1)
    private = ReceiptRow(room_id, "m.read.private", user_id, "$e", None, ts=1)

    assert woken(RECEIPTS, public) == ([], [room_id])
    assert woken(RECEIPTS, private) == ([user_id], [])
    assert woken(TYPING, TypingRow(room_id, (user_id,))) == ([], [room_id])
    subscribed = ThreadSubscriptionRow(user_id, room_id, "$root", True)
    assert woken(THREAD_SUBSCRIPTIONS, subscribed) == ([user_id], [])


def woken(stream: StreamDef[Any], row: object) -> tuple[list[str], list[str]]:
    users_of, rooms_of = stream.wakes_users, stream.wakes_rooms
    return (
        [] if users_of is None else list(users_of(row)),
        [] if rooms_of is None else list(rooms_of(row)),
    )


def test_message_is_plain_unless_it_changes_what_was_said_before() -> None:
    message = EventRow(
        room_id="!r:a",
        event_id="$e",
        type="m.room.message",
        sender="@u:a",
        state_key=None,
        depth=1,
        origin_server_ts=1,
    )
    changes: list[dict[str, Any]] = [
        {"state_key": ""},
        {"relates_to": ("m.replace", "$other")},
        {"redacts": "$other"},
        {"redacted_by": "$other"},
        {"sticky_until": 1},
        {"soft_failed": True},
        {"number": 1},  # stored before, as an outlier
    ]

    assert message.is_plain
    assert [
        change for change in changes if msgspec.structs.replace(message, **change).is_plain
    ] == []
