"""Row: `/messages` backwards and `/context` in the middle of a room's history."""

import pytest

from hs.core.requester import Requester
from hs.storage.database import Database
from tests.growth.shapes import add_history
from tests.growth.table import Growth
from tests.support.rooms import ALICE, open_world
from tests.support.web import Tokens

pytestmark = pytest.mark.growth


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
async def test_paging_deep_in_history(database: Database, growth: Growth, size: int) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        events = await add_history(world, room_id, ALICE, size)
        middle = events[size // 2].event_id
        client = world.process.client(Tokens({"alice": Requester(ALICE, "DEVICE")}))

        async def context() -> dict[str, object]:
            path = f"/_matrix/client/v3/rooms/{room_id}/context/{middle}"
            response = await client.get(path, token="alice")
            assert response.status == 200
            answer: dict[str, object] = response.json
            return answer

        token = (await context())["start"]

        async def page() -> list[str]:
            path = f"/_matrix/client/v3/rooms/{room_id}/messages"
            query = {"dir": "b", "from": token, "limit": 50}
            response = await client.get(path, token="alice", query=query)
            return [event["content"]["body"] for event in response.json["chunk"]]

        await growth.measure("/context deep in history", database.engine, size, context)
        await growth.measure("/messages deep in history", database.engine, size, page)

        assert len(await page()) == 50
