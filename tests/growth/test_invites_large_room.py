"""Rows: an invite to a large room and a change of its power levels, the first ones too."""

import time
from itertools import count

import pytest

from hs.core.events import event_types
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.growth.shapes import add_members, users
from tests.growth.table import Growth
from tests.support.rooms import ALICE, open_world

pytestmark = pytest.mark.growth


@pytest.mark.parametrize("size", [1_000, 5_000, 20_000])
async def test_invites_to_a_large_room(database: Database, growth: Growth, size: int) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        await add_members(world, room_id, users(size))

    engine = database.engine
    async with open_world(database) as world:
        membership = world.process.services.members.membership
        numbers = count()

        async def invite() -> None:
            invited = UserID(f"@invited{next(numbers)}:test.example")
            await membership.invite(Requester(ALICE), room_id, invited)
            assert await world.memberships.membership(room_id, invited) == event_types.INVITE

        async def change_power_levels() -> None:
            content = {"users": {ALICE: 100}, "events_default": next(numbers)}
            await world.append(room_id, Draft(event_types.POWER_LEVELS, ALICE, content, ""))

        wall, cpu = time.perf_counter(), time.process_time()
        await invite()
        wall_ms, cpu_ms = (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000
        growth.add("first invite after a start", engine, size, wall_ms=wall_ms, cpu_ms=cpu_ms)
        await growth.measure("invite", engine, size, invite)
        await growth.measure("power levels", engine, size, change_power_levels)
