"""Rows: the members, the full and the lazy first sync of a large room."""

from itertools import count

import orjson
import pytest

from hs.core.requester import Requester
from hs.services.rooms.read.room_state import MembersRequest
from hs.storage.database import Database
from tests.growth.shapes import add_members, users
from tests.growth.table import Growth
from tests.support.rooms import ALICE
from tests.support.syncing import open_syncing

pytestmark = pytest.mark.growth

LAZY = '{"room":{"state":{"lazy_load_members":true}}}'


@pytest.mark.parametrize("size", [1_000, 5_000, 20_000])
async def test_members_of_a_large_room(database: Database, growth: Growth, size: int) -> None:
    async with open_syncing(database) as scene:
        room_id = await scene.world.create_room(ALICE)
        await add_members(scene.world, room_id, users(size))
        await scene.world.send(room_id, ALICE)
        devices = (f"DEVICE{number}" for number in count())

        async def members() -> None:
            state = scene.services.reading.state
            answer = await state.members(Requester(ALICE), MembersRequest(room_id))
            assert answer is not None

        async def full_sync() -> bytes:
            return await scene.first_sync(ALICE, next(devices))

        async def lazy_sync() -> bytes:
            return await scene.first_sync(ALICE, next(devices), LAZY)

        def size_of_state(answer: bytes) -> int:
            return len(orjson.loads(answer)["rooms"]["join"][room_id]["state"]["events"])

        engine = database.engine
        await growth.measure("/members", engine, size, members)
        full = await growth.measure("first sync, all members", engine, size, full_sync)
        assert size_of_state(full) >= size - 10
        lazy = await growth.measure("first sync, lazy members", engine, size, lazy_sync)
        assert size_of_state(lazy) < 50
