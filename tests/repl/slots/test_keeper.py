"""Slots change hands: a process that hangs loses them, and cannot write what others took over.

A process whose keeper does not run is like one that is stopped (SIGSTOP): it gives no sign of life.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest
import trio

from hs.core.errors import MatrixError
from hs.core.ids import RoomID
from hs.core.streams import ACCOUNT_DATA, EVENTS
from hs.repl.slots.assignment import shard_of, slot_of
from hs.repl.slots.keeper import SlotKeeper
from hs.repl.slots.table import SlotTable
from hs.storage import stream_slots
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.rooms import ALICE, World, message, open_world, txn_key

WRITERS = ("p1", "p2")
WAIT_S = 30.0


@asynccontextmanager
async def open_persisters(
    database: Database, lists: Mapping[str, tuple[str, ...]] | None = None
) -> AsyncIterator[tuple[World, World]]:
    """Compose two processes, each with its own list of the writers of events."""
    lists = lists or dict.fromkeys(WRITERS, WRITERS)
    neighbours = Neighbourhood()
    first, second = (
        worker_settings(SETTINGS, name, *WRITERS, events=writers) for name, writers in lists.items()
    )
    async with (
        open_world(database, first, neighbours=neighbours) as one_world,
        open_world(database, second, neighbours=neighbours) as other_world,
    ):
        for world in (one_world, other_world):
            keeper_of(world).beat_s = 0.05
            keeper_of(world).silent_s = 0.4
        yield one_world, other_world


def keeper_of(world: World) -> SlotKeeper:
    assert world.process.base.slots is not None
    return world.process.base.slots


def table_of(world: World) -> SlotTable:
    return keeper_of(world).table


def held(world: World) -> int:
    return len(table_of(world).held("events"))


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while True:
            if condition():
                return
            await trio.sleep(0.01)


async def room_of(world: World) -> RoomID:
    """Create a room that a process owns."""
    while True:
        room_id = await world.create_room(ALICE)
        if table_of(world).holds("events", room_id):
            return room_id


async def stored_holders(database: Database) -> Counter[str]:
    records = await database.read(stream_slots.list_slots)
    return Counter(record.holder for record in records if record.stream == "events")


async def test_first_start_fills_the_table_evenly(database: Database) -> None:
    async with open_persisters(database) as (p1, p2):
        assert await stored_holders(database) == {"p1": 128, "p2": 128}
        assert held(p1) == held(p2) == 128


async def test_streams_without_slots_in_the_database_get_them_as_earlier_releases_chose(
    database: Database,
) -> None:
    async with open_persisters(database):
        pass

    settings = worker_settings(SETTINGS, "p1", *WRITERS, events=WRITERS, receipts=WRITERS[::-1])
    async with open_world(database, settings) as p1:
        records = await database.read(stream_slots.list_slots)
        holders = {(record.stream, record.slot): record.holder for record in records}

        assert holders["receipts", slot_of(ALICE)] == WRITERS[shard_of(ALICE, 2)]
        assert len(table_of(p1).held("receipts")) == 128
        assert p1.process.base.owner_calls(ACCOUNT_DATA) is None
    assert await stored_holders(database) == {"p1": 128, "p2": 128}


async def test_process_that_leaves_gets_no_slots_back(database: Database) -> None:
    async with open_persisters(database) as (p1, p2):
        leaving, other = keeper_of(p1), keeper_of(p2)
        await database.write(stream_slots.begin_leaving, "p1", leaving.life)

        await other._sign_of_life()
        given = await other._give("events", {"p1": sorted(other.table.held("events"))})

        assert given == 0
        assert await stored_holders(database) == {"p1": 128, "p2": 128}
        assert other._candidates("events") == {"p2"}
        assert not other._surplus("events")


async def test_lists_in_different_order_never_split_a_room(database: Database) -> None:
    lists = {"p1": ("p1", "p2"), "p2": ("p2", "p1")}
    async with open_persisters(database, lists) as (p1, p2):
        held_by = [table_of(world).held("events") for world in (p1, p2)]

        assert not held_by[0] & held_by[1]
        room_id = await room_of(p1)
        # Whichever process is asked, the holder writes.
        await p2.send(room_id, ALICE)
        assert p2.rooms.extremity_count(room_id) == 0
        with pytest.raises(MatrixError, match="takes over"):
            await p2.writer.append(room_id, [message(ALICE)])


async def test_only_writer_in_its_own_list_does_not_write_what_another_one_holds(
    database: Database,
) -> None:
    lists = {"p1": ("p1",), "p2": ("p2",)}
    async with open_persisters(database, lists) as (p1, p2):
        assert (held(p1), held(p2)) == (256, 0)

        room_id = await p2.create_room(ALICE)

        assert table_of(p1).holds("events", room_id)


async def test_hung_process_loses_its_slots_and_cannot_commit(database: Database) -> None:
    async with open_persisters(database) as (p1, p2), trio.open_nursery() as nursery:
        room_id = await room_of(p1)
        await nursery.start(keeper_of(p2).run)

        await wait_until(lambda: held(p2) == 256)
        await p2.send(room_id, ALICE, "by the new owner")

        # The hung process does not know yet: to it, the room is its own, and the database refuses.
        table_of(p1)._held["events"] |= set(range(256))
        with pytest.raises(MatrixError) as refused:
            await p1.writer.append(room_id, [message(ALICE, "by the old owner")])
        assert refused.value.status == 503
        assert held(p1) == 0
        assert await stored_holders(database) == {"p2": 256}

        nursery.cancel_scope.cancel()


async def test_hung_process_comes_back_as_a_candidate_and_gets_slots_again(
    database: Database,
) -> None:
    async with open_persisters(database) as (p1, p2), trio.open_nursery() as nursery:
        room_id = await room_of(p1)
        await nursery.start(keeper_of(p2).run)
        await wait_until(lambda: held(p2) == 256)

        await nursery.start(keeper_of(p1).run)
        await wait_until(lambda: held(p1) == held(p2) == 128)

        for number, world in enumerate((p1, p2, p1, p2)):
            await world.send(room_id, ALICE, f"message {number}")
        assert await stored_holders(database) == {"p1": 128, "p2": 128}
        assert not table_of(p1).held("events") & table_of(p2).held("events")
        nursery.cancel_scope.cancel()


async def test_what_was_accepted_before_a_takeover_is_not_committed_after_it(
    database: Database,
) -> None:
    async with open_persisters(database) as (p1, p2):
        room_id = await room_of(p1)
        generation = p1.process.base.table(EVENTS).generation

        async def append() -> None:
            with pytest.raises(MatrixError) as refused:
                await p1.writer.append(room_id, [message(ALICE, "too late")])
            assert refused.value.status == 503

        async def renew() -> None:
            generation.fences += 1

        async with trio.open_nursery() as nursery:
            # As when a stopped process goes on and gives its sign of life before it commits: the
            # batch is submitted, and by the time of the commit the new generation is valid.
            check, p1.rooms._check_owner = (
                p1.rooms._check_owner,
                lambda room_id: nursery.start_soon(renew),
            )
            p1.committer._has_many_senders = True  # so that it waits for others before it commits
            await append()
        p1.rooms._check_owner = check

        sent = await p2.send(room_id, ALICE)
        messages = [row.event_id for _, row in p2.seen if row.type == "m.room.message"]
        assert messages == [sent.event_id]


@attrs.define(eq=False)
class HeldReads:
    """A database whose snapshots are returned late."""

    _database: Database
    is_read: trio.Event = attrs.Factory(trio.Event)
    may_return: trio.Event = attrs.Factory(trio.Event)

    async def read_snapshot(self, *args: Any) -> Any:
        result = await self._database.read_snapshot(*args)
        self.is_read.set()
        await self.may_return.wait()
        return result


async def test_room_that_leaves_and_comes_back_while_it_is_read_is_read_again(
    database: Database,
) -> None:
    async with open_persisters(database) as (p1, p2):
        room_id = await room_of(p1)
        p1.rooms.drop(lambda each: each == room_id)
        reads: Any = HeldReads(database)
        p1.rooms._database = reads

        async with trio.open_nursery() as nursery:
            nursery.start_soon(p1.writer.append, room_id, [message(ALICE, "last")])
            await reads.is_read.wait()
            await hand_over(p1, p2, room_id)
            sent = await p2.writer.append(room_id, [message(ALICE, "meanwhile")])
            await hand_over(p2, p1, room_id)
            reads.may_return.set()

        _, last = p1.seen[-1]
        assert last.pdu is not None
        assert orjson.loads(last.pdu)["prev_events"] == [sent[0].event_id]


async def hand_over(giver: World, taker: World, room_id: RoomID) -> None:
    """Pass the slot of a room to another process."""
    await keeper_of(giver)._give("events", {table_of(taker).instance: [slot_of(room_id)]})
    await wait_until(lambda: "events" in table_of(taker).promised())
    await keeper_of(taker)._accept()
    assert table_of(taker).holds("events", room_id)


async def test_stopping_process_hands_over_all_slots_at_once(database: Database) -> None:
    async with open_persisters(database) as (p1, p2), trio.open_nursery() as nursery:
        room_id = await room_of(p1)
        await nursery.start(keeper_of(p2).run)
        async with trio.open_nursery() as stopping:
            await stopping.start(keeper_of(p1).run)
            await wait_until(lambda: "p2" in keeper_of(p1)._silence.last)
            stopping.cancel_scope.cancel()

        await wait_until(lambda: held(p2) == 256)
        await p1.send(room_id, ALICE)
        assert held(p1) == 0
        nursery.cancel_scope.cancel()


async def test_stopping_process_hands_over_to_one_that_has_only_just_started(
    database: Database,
) -> None:
    async with open_persisters(database) as (p1, p2):
        keeper_of(p1).beat_s = 3600.0
        life = keeper_of(p2).life
        await database.write(stream_slots.end_life, "p2", life)
        async with trio.open_nursery() as stopping:
            await stopping.start(keeper_of(p1).run)
            await wait_until(lambda: "p1" in keeper_of(p1)._silence.last)
            await database.write(stream_slots.begin_life, "p2", life, ["events"])
            stopping.cancel_scope.cancel()

        assert await stored_holders(database) == {"p2": 256}


async def test_new_owner_knows_the_transaction_ids_of_the_one_before(database: Database) -> None:
    async with open_persisters(database) as (p1, p2), trio.open_nursery() as nursery:
        room_id, other_room = await room_of(p1), await room_of(p2)
        # Both processes have the transactions of the device in memory.
        await p2.send(other_room, ALICE, txn=txn_key(ALICE, other_room, "t0"))
        sent = await p1.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1"))
        await nursery.start(keeper_of(p2).run)
        await wait_until(lambda: held(p2) == 256)

        again = await p2.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1"))

        assert (again.event_id, again.existed) == (sent.event_id, True)
        nursery.cancel_scope.cancel()


async def test_slots_move_under_load_without_a_failure(database: Database) -> None:
    async with open_persisters(database) as (p1, p2), trio.open_nursery() as nursery:
        rooms = [await p1.create_room(ALICE) for _ in range(4)]
        sent: list[str] = []

        async def send(room_id: RoomID) -> None:
            number = 0
            while True:
                number += 1
                world = (p1, p2)[number % 2]
                sent.append((await world.send(room_id, ALICE, f"{number}")).event_id)

        for room_id in rooms:
            nursery.start_soon(send, room_id)
        await nursery.start(keeper_of(p1).run)
        await nursery.start(keeper_of(p2).run)
        for world, other in ((p1, p2), (p2, p1), (p1, p2)):
            sent.clear()
            slots = sorted(table_of(world).held("events"))
            await keeper_of(world)._give("events", {table_of(other).instance: slots})
            await wait_until(lambda: len(sent) > 40)

        nursery.cancel_scope.cancel()
    assert len(set(sent)) == len(sent) > 40


async def test_added_process_gets_slots_by_itself_and_at_once_if_asked(
    database: Database,
) -> None:
    lists = {"p1": ("p1", "p2"), "p2": ("p1", "p2")}
    async with open_persisters(database, {**lists}) as (p1, p2), trio.open_nursery() as nursery:
        await database.write(stream_slots.give, "events", "p2", "p1", range(256))
        await keeper_of(p1).refresh()
        await keeper_of(p2).refresh()
        await nursery.start(keeper_of(p1).run)
        await wait_until(lambda: held(p1) == 256)
        await nursery.start(keeper_of(p2).run)
        await wait_until(lambda: held(p2) > 0)

        given = await keeper_of(p1).rebalance()

        assert 0 < given["p2"] < 128
        await wait_until(lambda: held(p2) == 128)
        nursery.cancel_scope.cancel()
