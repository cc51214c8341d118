"""What waits for the duty that sends to application services, and what is dropped at the bounds."""

from typing import Any

import msgspec
import pytest

from hs.core.stream_def import StreamDef
from hs.core.streams import (
    CACHES,
    DEVICE_LISTS,
    EVENTS,
    PRESENCE,
    TO_DEVICE,
    TYPING,
    CacheRow,
    DeviceListRow,
    EventRow,
    PresenceRow,
    ToDeviceRow,
    TypingRow,
)
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import QueueOverflow
from hs.services.appservices import row_queue
from hs.services.appservices.alias_namespaces import ALIASES
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.event_interest import EventInterest
from hs.services.appservices.row_queue import RowQueue
from hs.storage.database import Database
from tests.support.appservices import GHOST, registration
from tests.support.composition import SERVER
from tests.support.rooms import ALICE, BOB

MESSAGE = EventRow(
    room_id="!room",
    event_id="$event",
    type="m.room.message",
    sender=ALICE,
    state_key=None,
    depth=1,
    origin_server_ts=0,
)


def make_queue(database: Database, feed: Feed, **more: Any) -> RowQueue:
    registry = AppserviceRegistry([registration(**more)], SERVER)
    return RowQueue(feed, EventInterest(registry, database))


def deliver(feed: Feed, stream: StreamDef[Any], row: Any) -> None:
    position = (feed.position_of(stream, "main") or 0) + 1
    feed.deliver(Batch(stream, "main", position - 1, position, [(position, row)]))


def deliver_message(feed: Feed) -> None:
    deliver(feed, EVENTS, msgspec.structs.replace(MESSAGE, pdu=b"{}"))


async def take_rows(queue: RowQueue) -> list[Any]:
    rows: list[Any] = []

    async def take(batch: Batch[Any]) -> None:
        rows.extend(row for _, row in batch.rows)

    await queue.serve_waiting(take)
    return rows


async def test_rows_wait_without_what_the_tables_have(database: Database) -> None:
    feed = Feed()
    queue = make_queue(database, feed, receives_encryption=True)
    with queue.opened(), queue.tables_opened():
        deliver_message(feed)
        devices = ((BOB, "PHONE"), (GHOST, "BRIDGE"))
        deliver(feed, TO_DEVICE, ToDeviceRow(devices, (b"}", b"}"), head=b"{"))
        deliver(feed, TO_DEVICE, ToDeviceRow(((BOB, "PHONE"),), (b"}",), head=b"{"))
        deliver(feed, CACHES, CacheRow("profiles", (BOB,)))
        deliver(feed, CACHES, CacheRow(ALIASES, ("!room",)))

        rows = await take_rows(queue)

    assert rows == [
        MESSAGE,
        ToDeviceRow(((GHOST, "BRIDGE"),)),
        CacheRow(ALIASES, ("!room",)),
    ]


async def test_only_the_newest_row_of_each_room_and_user_waits(database: Database) -> None:
    feed = Feed()
    queue = make_queue(database, feed, receives_ephemeral=True)
    with queue.opened(), queue.tables_opened():
        deliver(feed, TYPING, TypingRow("!room", (ALICE,)))
        deliver(feed, PRESENCE, PresenceRow(ALICE, "online", 0))
        deliver(feed, TYPING, TypingRow("!room", (BOB,)))
        deliver(feed, PRESENCE, PresenceRow(ALICE, "offline", 0))
        waiting = queue.waiting

        rows = await take_rows(queue)

    assert waiting == 2
    assert rows == [TypingRow("!room", (BOB,)), PresenceRow(ALICE, "offline", 0)]
    assert queue.waiting == 0


async def test_typing_and_presence_cannot_overflow_the_queue(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_queue, "MAX_ROWS", 2)
    monkeypatch.setattr(row_queue, "MAX_NEWEST", 5)
    feed = Feed()
    queue = make_queue(database, feed, receives_ephemeral=True)
    with queue.opened(), queue.tables_opened():
        deliver_message(feed)
        for n in range(10):
            deliver(feed, TYPING, TypingRow(f"!room{n}", ()))
        deliver_message(feed)

        await queue.wait()
        rows = await take_rows(queue)

    assert [type(row) for row in rows] == [EventRow, *[TypingRow] * 5, EventRow]
    assert [row.room_id for row in rows[1:6]] == [f"!room{n}" for n in range(5, 10)]


async def test_typing_outlives_an_overflow_of_the_tables(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_queue, "MAX_ROWS", 2)
    feed = Feed()
    queue = make_queue(database, feed, receives_ephemeral=True)
    with queue.opened():
        with queue.tables_opened():
            deliver(feed, TYPING, TypingRow("!before", ()))
            for _ in range(3):
                deliver_message(feed)
            deliver(feed, TYPING, TypingRow("!after", ()))
            with pytest.raises(QueueOverflow):
                await queue.wait()
        with queue.tables_opened():
            rows = await take_rows(queue)

    assert rows == [TypingRow("!before", ()), TypingRow("!after", ())]


async def test_nothing_waits_between_runs(database: Database) -> None:
    feed = Feed()
    queue = make_queue(database, feed, receives_ephemeral=True)
    with queue.opened(), queue.tables_opened():
        deliver(feed, TYPING, TypingRow("!room", ()))

    deliver(feed, TYPING, TypingRow("!room", ()))
    deliver_message(feed)

    assert queue.waiting == 0


async def test_rows_with_lists_count_for_more(database: Database) -> None:
    feed = Feed()
    queue = make_queue(database, feed, receives_encryption=True)
    with queue.opened(), queue.tables_opened():
        targets = tuple(f"@user{n}:test.example" for n in range(9))
        deliver(feed, DEVICE_LISTS, DeviceListRow(ALICE, signatures=True, targets=targets))

        assert queue.waiting == 10
