"""Account data that is written by a process which does not own the stream."""

import pytest

from hs.core.errors import NotFound
from hs.core.ids import RoomID, UserID
from hs.storage.database import Database
from tests.support.accounts import MAIN, WORKER, open_accounts, open_pair

ALICE = UserID("@alice:test")
ROOM = RoomID("!room:test")


async def test_process_reads_its_own_writes_through_the_owner(database: Database) -> None:
    async with open_pair(database) as (owner, worker):
        data = worker.account_data
        assert await data.all(ALICE) == []
        await data.put(ALICE, None, "a", {"n": 1})
        await data.put_tag(ALICE, ROOM, "m.favourite", {})
        await data.put_tag(ALICE, ROOM, "m.lowpriority", {"order": 1})
        await data.remove_tag(ALICE, ROOM, "m.favourite")

        assert await data.content(ALICE, None, "a") == b'{"n":1}'
        assert await data.tags(ALICE, ROOM) == {"m.lowpriority": {"order": 1}}
        assert await owner.account_data.tags(ALICE, ROOM) == {"m.lowpriority": {"order": 1}}


async def test_get_and_tags_see_writes_that_have_not_been_replicated(
    database: Database,
) -> None:
    async with (
        open_accounts(database, MAIN) as owner,
        open_accounts(database, WORKER) as disconnected,
    ):
        assert await disconnected.account_data.all(ALICE) == []
        await owner.account_data.put(ALICE, None, "a", {"n": 1})
        await owner.account_data.put_tag(ALICE, ROOM, "m.favourite", {})

        assert await disconnected.account_data.get(ALICE, None, "a") == b'{"n":1}'
        assert await disconnected.account_data.tags(ALICE, ROOM) == {"m.favourite": {}}
        await owner.account_data.delete(ALICE, None, "a")
        with pytest.raises(NotFound):
            await disconnected.account_data.get(ALICE, None, "a")
