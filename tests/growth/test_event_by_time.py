"""Row: `/timestamp_to_event` in both directions."""

import pytest

from hs.core.requester import Requester
from hs.storage.database import Database
from tests.growth.shapes import add_history
from tests.growth.table import Growth
from tests.support.rooms import ALICE, open_world

pytestmark = pytest.mark.growth


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
async def test_event_by_time(database: Database, growth: Growth, size: int) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        await add_history(world, room_id, ALICE, size // 2)
        world.clock.advance(1000)
        middle_ms = world.clock.now_ms()
        await add_history(world, room_id, ALICE, size // 2)
        timestamps = world.process.services.reading.timestamps
        requester = Requester(ALICE, "DEVICE")

        async def closest() -> int:
            event = await timestamps.closest_event(requester, room_id, middle_ms, "f")
            await timestamps.closest_event(requester, room_id, middle_ms - 1, "b")
            return event.origin_server_ts

        await growth.measure("/timestamp_to_event", database.engine, size, closest)

        assert await closest() == middle_ms
