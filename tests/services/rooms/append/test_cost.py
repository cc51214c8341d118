"""The number of database statements per message."""

from typing import Any

import pytest
import trio
import trio.testing

from hs.repl.feed import Feed
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database
from hs.storage.rooms import state
from tests.support.rooms import ALICE, BOB, message, open_world, txn_key
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet

STATEMENTS_OF_A_COMMIT = 5


async def test_message_to_a_hot_room_needs_no_read_and_few_statements(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_world(counting) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "first"))
        await wait_until_quiet(world.process)
        count.reads = 0
        count.statements.clear()

        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "second"))

        assert count.reads == 0
        assert len(count.statements) <= STATEMENTS_OF_A_COMMIT, count.statements


async def test_many_messages_of_one_commit_need_no_more_statements(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_world(counting) as world:
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE)
        await wait_until_quiet(world.process)
        count.statements.clear()

        await world.append(room_id, *(message(ALICE, str(number)) for number in range(50)))

        assert len(count.statements) <= STATEMENTS_OF_A_COMMIT, count.statements


async def test_simultaneous_senders_come_to_share_each_commit(database: Database) -> None:
    senders, messages = 8, 10
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        before = world.committer._writer.commits

        async def send(late: bool) -> None:
            if late:  # At first, the others gather while the first event is committed.
                await trio.testing.wait_all_tasks_blocked()
            for number in range(messages):
                await world.append(room_id, message(ALICE, str(number)))

        async with trio.open_nursery() as nursery:
            for number in range(senders):
                nursery.start_soon(send, number > 0)

        assert world.committer._writer.commits - before <= messages + 4


async def test_whole_snapshot_is_stored_without_looking_up_its_entries(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_snapshots, "MIN_HOPS", 5)
    monkeypatch.setattr(state_snapshots, "ENTRIES_PER_HOP", 1000)
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_world(counting) as world:
        room_id = await world.create_room(ALICE)
        drafts = [Draft("m.test", ALICE, {}, str(number)) for number in range(100)]
        await world.append(room_id, *drafts)
        count.longest = 0

        for number in range(12):
            await world.append(room_id, Draft("m.test", ALICE, {"changed": 1}, str(number)))

        cold = StateStore(database, Feed(), world.events)
        last = await world.send(room_id, ALICE)
        stored = await world.events.get_one(last.event_id)
        assert stored is not None
        assert len(await database.read(state.load_chain, stored.snapshot_id or 0)) <= 6
        assert await cold.at_snapshot(stored.snapshot_id or 0) == await world.states.current(
            room_id
        )
        assert count.longest < 20
