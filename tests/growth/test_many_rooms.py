"""Rows: first sync, sliding sync increment and device key change of a user in many rooms."""

from itertools import count
from typing import Any

import msgspec
import orjson
import pytest

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.services.sync.sliding.request import SlidingRequest
from hs.storage.database import Database
from tests.growth.shapes import collect_statistics, users
from tests.growth.table import Growth
from tests.support.rooms import ALICE, World, member, message
from tests.support.sliding import window
from tests.support.syncing import Syncing, open_syncing

pytestmark = pytest.mark.growth

OTHERS = users(50)
MESSAGES = 12


async def add_rooms(world: World, size: int) -> list[RoomID]:
    rooms: list[RoomID] = []
    for number in range(size):
        first, second = OTHERS[number % 50], OTHERS[(number + 1) % 50]
        name = Draft(event_types.NAME, first, {"name": f"room {number}"}, "")
        room_id = await world.create_room(first, state=[name])
        texts = [message(first, f"message {text}") for text in range(MESSAGES)]
        await world.append(room_id, member(ALICE, "join"), member(second, "join"), *texts)
        rooms.append(room_id)
    await collect_statistics(world.database)
    return rooms


async def slide(scene: Syncing, pos: str | None) -> Any:
    fields = {"pos": pos, "lists": window([0, 19], limit=1)}
    request = msgspec.convert(fields, SlidingRequest)
    return orjson.loads(await scene.services.sync.sliding.sync(Requester(ALICE, "S"), request))


@pytest.mark.parametrize("size", [100, 1_000, 3_000])
async def test_user_in_many_rooms(database: Database, growth: Growth, size: int) -> None:
    async with open_syncing(database) as scene:
        rooms = await add_rooms(scene.world, size)
        engine = database.engine
        devices = (f"DEVICE{number}" for number in count())

        async def first_sync() -> bytes:
            return await scene.first_sync(ALICE, next(devices))

        answer = await growth.measure(
            "first sync of many rooms", engine, size, first_sync, repeat=3
        )
        assert len(orjson.loads(answer)["rooms"]["join"]) == size

        pos = (await slide(scene, None))["pos"]
        numbers = count()

        async def increment() -> None:
            nonlocal pos
            number = next(numbers)
            await scene.world.send(rooms[number], OTHERS[number % 50])
            answer = await slide(scene, pos)
            assert list(answer["rooms"]) == [rooms[number]]
            pos = answer["pos"]

        await growth.measure("sliding sync increment, and a message", engine, size, increment)

        for user_id in OTHERS[:20]:
            await scene.sync(user_id)

        async def change_keys() -> None:
            await scene.services.core.device_writers.lists.announce(ALICE, ["DEVICE"])

        await growth.measure("device key change", engine, size, change_keys)
