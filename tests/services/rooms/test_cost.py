"""What a message to a room in use costs the database."""

from collections.abc import Callable
from typing import Any

import attrs

from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, BOB, message, open_world, txn_key

STATEMENTS_OF_A_COMMIT = 5


@attrs.define
class Count:
    """What was asked of a database."""

    reads: int = 0
    statements: list[str] = attrs.Factory(list)


class CountingTx:
    """Passes everything on and notes each statement."""

    def __init__(self, tx: Tx, count: Count) -> None:
        self._tx = tx
        self._count = count

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._tx, name)
        if name == "dialect":
            return found

        def call(*args: Any) -> Any:
            self._count.statements.append(f"{name} {args[0]!r}")
            return found(*args)

        return call


class CountingDatabase:
    """Passes every unit on and counts."""

    def __init__(self, database: Database, count: Count) -> None:
        self._database = database
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, unit: Callable[..., Any], *args: Any) -> Any:
        self._count.reads += 1
        return await self._database.read(unit, *args)

    async def read_snapshot(self, unit: Callable[..., Any], *args: Any) -> Any:
        self._count.reads += 1
        return await self._database.read_snapshot(unit, *args)

    async def write(self, unit: Callable[..., Any], *args: Any) -> Any:
        async def counted(tx: Tx) -> Any:
            return await unit(CountingTx(tx, self._count), *args)

        return await self._database.write(counted)


async def test_a_message_to_a_hot_room_is_one_short_commit(database: Database) -> None:
    count = Count()
    counting: Any = CountingDatabase(database, count)
    async with open_world(counting) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "first"))
        count.reads = 0
        count.statements.clear()

        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "second"))

        assert count.reads == 0
        assert len(count.statements) <= STATEMENTS_OF_A_COMMIT, count.statements


async def test_many_messages_of_one_group_cost_no_more_statements(database: Database) -> None:
    count = Count()
    counting: Any = CountingDatabase(database, count)
    async with open_world(counting) as world:
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE)
        count.statements.clear()

        await world.append(room_id, *(message(ALICE, str(number)) for number in range(50)))

        assert len(count.statements) <= STATEMENTS_OF_A_COMMIT, count.statements
