"""Row: the first sync of a device whose room has many unread messages."""

from itertools import count

import pytest

from hs.storage.database import Database
from tests.growth.shapes import add_history
from tests.growth.table import Growth
from tests.support.rooms import ALICE, BOB
from tests.support.syncing import open_syncing

pytestmark = pytest.mark.growth


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
async def test_first_sync_with_unread_messages(
    database: Database, growth: Growth, size: int
) -> None:
    async with open_syncing(database) as scene:
        room_id = await scene.world.create_room(ALICE, join=[BOB])
        await add_history(scene.world, room_id, ALICE, size)

        devices = (f"DEVICE{number}" for number in count())

        async def first_sync() -> None:
            answer = await scene.sync(BOB, device_id=next(devices))
            assert room_id in answer["rooms"]["join"]

        await growth.measure("first sync with unread", database.engine, size, first_sync)
