"""Row: the first sync of a room with many unread messages, in a process that has just started."""

import math
import time

import pytest

from hs.storage.database import Database
from tests.growth.shapes import add_history
from tests.growth.table import Growth
from tests.support.rooms import ALICE, BOB
from tests.support.sql.counting import wait_until_quiet
from tests.support.syncing import open_syncing

pytestmark = pytest.mark.growth

REPEAT = 5


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
async def test_first_sync_with_unread_messages(
    database: Database, growth: Growth, size: int
) -> None:
    async with open_syncing(database) as scene:
        room_id = await scene.world.create_room(ALICE, join=[BOB])
        await add_history(scene.world, room_id, ALICE, size)
        await wait_until_quiet(scene.world.process)

    wall_s = cpu_s = math.inf
    for repeat in range(REPEAT):
        # A process that followed the messages has counted them one by one.
        async with open_syncing(database) as scene:
            wall, cpu = time.perf_counter(), time.process_time()
            answer = await scene.sync(BOB, device_id=f"DEVICE{repeat}")
            wall_s = min(wall_s, time.perf_counter() - wall)
            cpu_s = min(cpu_s, time.process_time() - cpu)
            assert answer["rooms"]["join"][room_id]["unread_notifications"]["notification_count"]
    growth.add(
        "first sync with unread",
        database.engine,
        size,
        wall_ms=wall_s * 1000,
        cpu_ms=cpu_s * 1000,
    )
