"""Application services are served although more rows arrive than fit into the queue."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from hs.core.ids import RoomID
from hs.core.streams import CACHES, RECEIPTS, TYPING, CacheRow, ReceiptRow, TypingRow
from hs.repl.feed import Batch, Feed
from hs.services.appservices import appservice_sender, row_queue, transactions
from hs.services.appservices.catching_up import EphemeralCatchUp
from hs.services.appservices.ping import REACHABLE
from hs.services.appservices.row_selection import EphemeralSelection
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from tests.support.appservices import (
    GHOST,
    OTHER_GHOST,
    SendingScene,
    open_sending,
    registration,
)
from tests.support.rooms import ALICE

MAX_ROWS = 3
ROOM = "!other:test.example"


@pytest.fixture(autouse=True)
def _short_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_queue, "MAX_ROWS", MAX_ROWS)


def while_catching_up(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """Run `meanwhile` in each reading, after its events were read and before all else is."""
    original = EphemeralCatchUp.run

    async def run(self: EphemeralCatchUp, start: Any) -> None:
        await meanwhile()
        await original(self, start)

    monkeypatch.setattr(EphemeralCatchUp, "run", run)


def move_receipts(feed: Feed, count: int) -> None:
    """Deliver receipts in a room that is of interest to no service."""
    before = feed.position_of(RECEIPTS, "main") or 0
    for position in range(before + 1, before + 1 + count):
        row = ReceiptRow(ROOM, "m.read", ALICE, f"${position}", thread_id=None, ts=0)
        feed.deliver(Batch(RECEIPTS, "main", position - 1, position, [(position, row)]))


def type_in(feed: Feed, room_id: str, *user_ids: str) -> None:
    position = feed.position_of(TYPING, "main") or 0
    row = TypingRow(room_id, user_ids)
    feed.deliver(Batch(TYPING, "main", position, position + 1, [(position + 1, row)]))


async def stop_with_room(sending: SendingScene) -> RoomID:
    """Stop the sender once a service has received the first event of a room."""
    room_id = await sending.world.create_room(ALICE, join=[GHOST])
    await sending.services.until(sending.services.events)
    await sending.end()
    return room_id


async def test_events_are_sent_although_each_catch_up_overflows_the_queue(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sending(database, registration(receives_ephemeral=True)) as sending:
        world, services = sending.world, sending.services
        room_id = await stop_with_room(sending)
        missed = await world.send(room_id, ALICE, "missed")

        async def overflow() -> None:
            move_receipts(world.feed, MAX_ROWS + 1)

        while_catching_up(monkeypatch, overflow)
        sending.begin()
        await services.until(lambda: missed.event_id in services.events())
        later = [await world.send(room_id, ALICE, f"event {n}") for n in range(3)]
        await services.until(lambda: later[-1].event_id in services.events())

        expected = [missed, *later]
        assert services.events()[1:] == [event.event_id for event in expected]


async def test_events_that_did_not_fit_are_read_from_the_tables_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        room_id = await stop_with_room(sending)
        sent = [await world.join(room_id, OTHER_GHOST)]
        overflows = 0

        async def talk() -> None:
            nonlocal overflows
            if overflows < 3:
                overflows += 1
                sent.extend([await world.send(room_id, ALICE) for _ in range(MAX_ROWS)])
                sent.append(await world.leave(room_id, OTHER_GHOST))
                sent.append(await world.join(room_id, OTHER_GHOST))

        while_catching_up(monkeypatch, talk)
        sending.begin()
        await services.until(lambda: overflows == 3 and len(services.events()) > len(sent))

        assert services.events()[1:] == [event.event_id for event in sent]


async def test_an_overflow_after_catching_up_loses_nothing(database: Database) -> None:
    async with open_sending(database, registration(receives_ephemeral=True)) as sending:
        world, services = sending.world, sending.services
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(services.events)

        before = await world.send(room_id, ALICE, "before")
        move_receipts(world.feed, MAX_ROWS + 1)
        after = await world.send(room_id, ALICE, "after")
        await services.until(lambda: after.event_id in services.events())

        assert services.events()[1:] == [before.event_id, after.event_id]


async def test_stored_events_are_sent_before_the_run_has_caught_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        room_id = await stop_with_room(sending)
        missed = await world.send(room_id, ALICE, "missed")

        while_catching_up(monkeypatch, trio.sleep_forever)
        sending.begin()

        await services.until(lambda: missed.event_id in services.events())


async def test_newest_typing_users_are_sent_after_an_overflow(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sending(database, registration(receives_ephemeral=True)) as sending:
        world, services = sending.world, sending.services
        room_id = await stop_with_room(sending)
        has_typed = False

        async def type_and_overflow() -> None:
            nonlocal has_typed
            if not has_typed:
                has_typed = True
                for n in range(10):
                    type_in(world.feed, room_id, *[ALICE] * (n % 2))
                move_receipts(world.feed, MAX_ROWS + 1)

        while_catching_up(monkeypatch, type_and_overflow)
        sending.begin()

        def typing() -> list[Any]:
            bodies = services.transactions().values()
            events = [event for body in bodies for event in body.get("ephemeral", ())]
            return [event for event in events if event["type"] == "m.typing"]

        await services.until(typing)
        assert typing() == [
            {"type": "m.typing", "room_id": room_id, "content": {"user_ids": [ALICE]}}
        ]


async def test_stored_position_of_receipts_covers_only_what_was_added(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that is sent while receipts are still read must not skip them."""
    async with open_sending(database, registration(receives_ephemeral=True)) as sending:
        world, services = sending.world, sending.services
        room_id = await stop_with_room(sending)
        missed = await world.send(room_id, ALICE, "missed")
        move_receipts(world.feed, 7)
        before = await database.read(storage.positions, "irc")

        while_catching_up(monkeypatch, trio.sleep_forever)
        sending.begin()
        await services.until(lambda: missed.event_id in services.events())

        assert await database.read(storage.positions, "irc") == before


async def test_events_are_sent_although_typing_never_pauses(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appservice_sender, "STORE_EVENTS_S", 0.01)
    async with open_sending(database, registration(receives_ephemeral=True)) as sending:
        world, services = sending.world, sending.services
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(services.events)
        take_typing = EphemeralSelection.take_typing

        async def take_and_type(self: EphemeralSelection, batch: Batch[TypingRow]) -> None:
            await take_typing(self, batch)
            await trio.lowlevel.checkpoint()
            type_in(world.feed, room_id, ALICE)

        monkeypatch.setattr(EphemeralSelection, "take_typing", take_and_type)
        type_in(world.feed, room_id, ALICE)
        sent = await world.send(room_id, ALICE)

        await services.until(lambda: sent.event_id in services.events())


async def test_failed_delivery_is_retried_after_a_ping_although_the_queue_overflows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MIN_PAUSE_S", 1000.0)
    monkeypatch.setattr(transactions, "MAX_PAUSE_S", 1000.0)
    async with open_sending(database, registration(receives_ephemeral=True)) as sending:
        world, services = sending.world, sending.services
        room_id = await stop_with_room(sending)
        while_catching_up(monkeypatch, trio.sleep_forever)
        services.answer = lambda sent: 0
        missed = await world.send(room_id, ALICE)
        count = len(services.sent)
        sending.begin()
        await services.until(lambda: len(services.sent) > count)
        await trio.testing.wait_all_tasks_blocked()

        services.answer = lambda sent: 200
        move_receipts(world.feed, MAX_ROWS + 1)
        before = world.feed.position_of(CACHES, "main") or 0
        row = CacheRow(REACHABLE, ("irc",))
        world.feed.deliver(Batch(CACHES, "main", before, before + 1, [(before + 1, row)]))

        await services.until(lambda: missed.event_id in services.events())
