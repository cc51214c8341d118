"""Row: the most expensive of many state changes in a room with many members."""

import time

import pytest

from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.growth.shapes import add_members, users
from tests.growth.table import Growth
from tests.support.rooms import ALICE, open_world

pytestmark = pytest.mark.growth

CHANGES = 1100  # a whole snapshot is stored after 1024 at the latest


@pytest.mark.parametrize("size", [1_000, 5_000, 20_000])
async def test_largest_state_change(database: Database, growth: Growth, size: int) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        await add_members(world, room_id, users(size))

        wall_s = cpu_s = 0.0
        for number in range(CHANGES):
            wall, cpu = time.perf_counter(), time.process_time()
            await world.append(room_id, Draft("m.test", ALICE, {"number": number}, ""))
            wall_s = max(wall_s, time.perf_counter() - wall)
            cpu_s = max(cpu_s, time.process_time() - cpu)
        growth.add(
            "largest state change",
            database.engine,
            size,
            wall_ms=wall_s * 1000,
            cpu_ms=cpu_s * 1000,
        )
