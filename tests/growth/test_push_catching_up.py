"""Row: push rules of 1,000 missed events in a room of so many members, a tenth of them renamed."""

import time

import pytest
import trio.testing

from hs.storage.database import Database
from tests.growth.shapes import add_history, add_members, append_all, users
from tests.growth.table import Growth
from tests.support.composition import Neighbourhood
from tests.support.evaluating import evaluating_settings, writing_settings
from tests.support.rooms import ALICE, World, member, open_world

pytestmark = pytest.mark.growth

EVENTS = 5_000


async def caught_up(world: World) -> None:
    """Wait until no missed event is left."""
    duty = world.process.services.push.evaluation
    assert duty is not None
    await duty.flush()
    while duty.waiting:
        await trio.testing.wait_all_tasks_blocked(0.002)


@pytest.mark.parametrize("size", [10, 1_000, 5_000])
async def test_push_rules_of_missed_events(database: Database, growth: Growth, size: int) -> None:
    neighbours = Neighbourhood()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE)
        await add_members(writing, room_id, users(size))
        async with open_world(database, evaluating_settings(), neighbours=neighbours) as world:
            await caught_up(world)
        names = [
            member(users(10)[number % 10], "join", displayname=f"name {number}")
            for number in range(EVENTS // 10)
        ]
        await append_all(writing, room_id, names)
        await add_history(writing, room_id, ALICE, EVENTS - len(names))

        wall, cpu = time.perf_counter(), time.process_time()
        async with open_world(database, evaluating_settings(), neighbours=neighbours) as world:
            await caught_up(world)
            took_ms = (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000

    wall_ms, cpu_ms = (ms * 1000 / EVENTS for ms in took_ms)
    growth.add("push catch-up", database.engine, size, wall_ms=wall_ms, cpu_ms=cpu_ms)
