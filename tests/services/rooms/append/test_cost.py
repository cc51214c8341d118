"""The number of database statements per message."""

from typing import Any

from hs.storage.database import Database
from tests.support.counting import CountingDatabase, QueryCount, wait_until_quiet
from tests.support.rooms import ALICE, BOB, message, open_world, txn_key

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
