"""Row: the search of a word that every message has, latest hits first."""

import pytest

from hs.core.requester import Requester
from hs.services.search.search_request import MessageSearchRequest
from hs.storage.database import Database
from tests.growth.shapes import add_history
from tests.growth.table import Growth
from tests.support.rooms import ALICE
from tests.support.searching import events_of, open_searching

pytestmark = pytest.mark.growth


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
async def test_search_of_a_common_word(database: Database, growth: Growth, size: int) -> None:
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        await add_history(searching.world, room_id, ALICE, size)
        await searching.indexer.catch_up()
        messages = searching.world.process.services.search.messages
        request = MessageSearchRequest("message", order="recent")

        async def search() -> int:
            answer = await messages.search(Requester(ALICE, "DEVICE"), request)
            return len(events_of(answer))

        await growth.measure("search of a common word", database.engine, size, search)

        assert await search() == 10
