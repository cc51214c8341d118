"""Rows: what idle clients cost in long polls that time out, with presence and without."""

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
SETTLE_S = 3.0
POLL_MS = 10_000
DUTIES = ("presence", "remote presence", "long poll timeouts")


@attrs.define
class Answers:
    count: int = 0


async def poll(scene: Syncing, user_id: UserID, start_s: float, answers: Answers) -> None:
    await trio.sleep(start_s)
    since = None
    while True:
        since = (await scene.sync(user_id, since, timeout_ms=POLL_MS))["next_batch"]
        answers.count += 1


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

        answers = Answers()
        async with scene.process.duties(*DUTIES), trio.open_nursery() as nursery:
            for number, user_id in enumerate(clients):
                nursery.start_soon(poll, scene, user_id, number * START_EVERY_S, answers)
            await trio.sleep(size * START_EVERY_S + SETTLE_S)
            before, cpu = answers.count, time.process_time()
            await trio.sleep(POLL_MS / 1000)
            cpu_ms = (time.process_time() - cpu) * 1000
            count = answers.count - before
            row = f"idle clients for 10 s, presence {'on' if enabled else 'off'}"
            growth.add(row, database.engine, size, wall_ms=POLL_MS, cpu_ms=cpu_ms)
            growth.add(f"{row}: answers", database.engine, size, wall_ms=count, cpu_ms=0)
            assert count > 0.9 * size
            nursery.cancel_scope.cancel()
