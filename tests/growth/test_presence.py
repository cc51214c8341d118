"""Rows: clients that come online and then idle in long polls, with presence and without."""

import time

import attrs
import pytest
import trio

from hs.core.ids import UserID
from hs.settings.sections.features import PresenceSettings
from hs.storage.database import Database
from tests.growth.shapes import users
from tests.growth.table import Growth
from tests.support.composition import SETTINGS
from tests.support.rooms import member
from tests.support.syncing import Syncing, open_syncing

pytestmark = pytest.mark.growth

ROOM_SIZE = 20
START_EVERY_S = 0.01
IDLE_S = 5.0
LONG_MS = 30_000
DUTIES = ("presence", "remote presence", "long poll timeouts")


async def poll(scene: Syncing, user_id: UserID, start_s: float) -> None:
    await trio.sleep(start_s)
    since = None
    while True:
        since = (await scene.sync(user_id, since, timeout_ms=LONG_MS))["next_batch"]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("size", [100, 1_000])
async def test_idle_clients(database: Database, growth: Growth, size: int, enabled: bool) -> None:
    settings = attrs.evolve(SETTINGS, presence=PresenceSettings(enabled=enabled))
    async with open_syncing(database, settings) as scene:
        clients = users(size)
        for start in range(0, size, ROOM_SIZE):
            creator, *others = clients[start : start + ROOM_SIZE]
            room_id = await scene.world.create_room(creator)
            await scene.world.append(room_id, *[member(user_id, "join") for user_id in others])

        wall, cpu = time.perf_counter(), time.process_time()
        with trio.move_on_after(size * START_EVERY_S + IDLE_S):
            async with scene.process.duties(*DUTIES), trio.open_nursery() as nursery:
                for number, user_id in enumerate(clients):
                    nursery.start_soon(poll, scene, user_id, number * START_EVERY_S)
        growth.add(
            f"idle clients, presence {'on' if enabled else 'off'}",
            database.engine,
            size,
            wall_ms=(time.perf_counter() - wall) * 1000,
            cpu_ms=(time.process_time() - cpu) * 1000,
        )
        assert len(scene.notifier) == size
