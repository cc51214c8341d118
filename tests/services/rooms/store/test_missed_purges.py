"""The caches of rooms after rows that told of purged rooms were lost."""

from hs.core.streams import CACHES
from hs.repl.feed import Batch
from hs.storage.database import Database, Tx
from hs.storage.rooms.purge import DELETE_ROOM
from tests.support.rooms import ALICE, open_world


async def delete_room(tx: Tx, room_id: str) -> None:
    for statement in DELETE_ROOM:
        await tx.execute(statement, room_id)


async def test_state_of_a_purged_room_is_forgotten_when_cache_rows_were_lost(
    database: Database,
) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        assert await world.states.current(room_id)
        await database.write(delete_room, room_id)

        world.feed.deliver(Batch(CACHES, "other", 0, 1, [], reset=True))

        assert not await world.states.current(room_id)
