"""The user directory when more users change than it remembers."""

import pytest

from hs.core.requester import Requester
from hs.core.streams import CACHES, CacheRow
from hs.repl.feed import Batch
from hs.services.directory import user_directory
from hs.services.directory.directory_progress import PROFILES_CACHE
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.rooms import ALICE, ZOE, member, open_world


async def test_new_members_are_listed_after_profile_changes_were_dropped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_directory, "MAX_CHANGES", 3)
    async with open_world(database) as world:
        directory = world.process.services.directory
        assert directory.updater is not None
        room_id = await world.create_room(ALICE)
        await world.append(room_id, member(ZOE, "join", displayname="Zoe"))
        changed = tuple(f"@{number}:{SERVER}" for number in range(5))
        row = CacheRow(PROFILES_CACHE, changed)
        world.feed.deliver(Batch(CACHES, "other", 0, 1, [(1, row)]))

        await directory.updater.catch_up()
        found = await directory.users.search(Requester(ALICE), "zoe", 10)

    assert [user["user_id"] for user in found["results"]] == [ZOE]
