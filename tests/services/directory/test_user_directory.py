"""The user directory: which users a search returns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.settings.sections.features import UserDirectorySettings
from hs.storage.accounts import profiles
from hs.storage.database import Database, DatabaseUnavailable, Tx
from hs.storage.directory import user_directory
from hs.storage.directory.user_directory import DirectoryUser
from tests.support.composition import SETTINGS
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

ADD_USER = "INSERT INTO users (user_id, created_ms) VALUES ($1, 0)"
DEACTIVATE = "UPDATE users SET is_deactivated = 1 WHERE user_id = $1"


async def add_user(tx: Tx, user_id: str, name: str | None) -> None:
    await tx.execute(ADD_USER, user_id)
    if name is not None:
        await profiles.set_field(tx, user_id, "displayname", name)


async def deactivate(tx: Tx, user_id: str) -> None:
    await tx.execute(DEACTIVATE, user_id)


@attrs.frozen(eq=False)
class Scene:
    """A user directory with Alice, Bob and Carol."""

    world: World

    async def update(self) -> None:
        """Bring the directory up to date."""
        updater = self.world.process.services.directory.updater
        assert updater is not None
        await updater.catch_up()

    async def search(self, requester: UserID, term: str, limit: int = 10) -> dict[str, Any]:
        await self.update()
        users = self.world.process.services.directory.users
        return await users.search(Requester(requester), term, limit)

    async def found_ids(self, requester: UserID, term: str) -> list[str]:
        return [user["user_id"] for user in (await self.search(requester, term))["results"]]

    async def rename(self, user_id: UserID, name: str) -> None:
        profiles = self.world.process.services.core.accounts.profiles
        await profiles.set_field(Requester(user_id), user_id, "displayname", name)


@asynccontextmanager
async def open_scene(
    database: Database, settings: UserDirectorySettings = SETTINGS.user_directory
) -> AsyncIterator[Scene]:
    names = ((ALICE, "Alice Liddell"), (BOB, "The Builder"), (CAROL, None))
    for user_id, name in names:
        await database.write(add_user, user_id, name)
    async with open_world(database, attrs.evolve(SETTINGS, user_directory=settings)) as world:
        yield Scene(world)


async def test_members_of_public_rooms_are_found_by_everyone(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.world.create_room(ALICE, join=[BOB], join_rule="public")

        assert await scene.found_ids(CAROL, "builder") == [BOB]
        assert await scene.found_ids(CAROL, "@bob:test.example") == [BOB]
        assert await scene.found_ids(CAROL, "lidd ALI") == [ALICE]
        assert await scene.found_ids(CAROL, "nobody") == []
        await scene.world.set_state(room_id, ALICE, "m.room.join_rules", {"join_rule": "invite"})
        assert await scene.found_ids(CAROL, "builder") == []
        await scene.world.set_state(
            room_id,
            ALICE,
            "m.room.history_visibility",
            {"history_visibility": "world_readable"},
        )
        assert await scene.found_ids(CAROL, "builder") == [BOB]
        await scene.world.leave(room_id, BOB)
        assert await scene.found_ids(CAROL, "builder") == []


async def test_members_of_a_private_room_find_each_other(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.world.create_room(ALICE, invite=[BOB], join_rule="invite")

        assert await scene.found_ids(ALICE, "builder") == []
        await scene.world.join(room_id, BOB)
        assert await scene.found_ids(ALICE, "builder") == [BOB]
        # Users are not found because they share the room with themselves.
        assert await scene.found_ids(BOB, "builder") == []
        assert await scene.found_ids(CAROL, "builder") == []
        await scene.world.leave(room_id, BOB)
        assert await scene.found_ids(ALICE, "builder") == []


async def test_limited_results_are_marked(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.world.create_room(ALICE, join=[BOB, CAROL])

        response = await scene.search(ALICE, "test.example", limit=2)

        assert response["limited"]
        assert [user["user_id"] for user in response["results"]] == [ALICE, BOB]
        assert response["results"][0]["display_name"] == "Alice Liddell"
        assert await scene.search(ALICE, "  ") == {"limited": False, "results": []}


async def test_new_display_name_is_found(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.world.create_room(ALICE, join=[CAROL])
        await scene.update()

        await scene.rename(CAROL, "Lewis")

        assert await scene.found_ids(ALICE, "lewis") == [CAROL]


async def test_new_name_is_found_after_the_database_was_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_scene(database) as scene:
        await scene.world.create_room(ALICE, join=[CAROL])
        await scene.update()
        await scene.rename(CAROL, "Lewis")
        with monkeypatch.context() as patch:
            patch.setattr(user_directory, "put", be_unavailable)
            with pytest.raises(DatabaseUnavailable):
                await scene.update()

        assert await scene.found_ids(ALICE, "lewis") == [CAROL]


async def be_unavailable(tx: Tx, users: list[DirectoryUser], position: int | None) -> None:
    raise DatabaseUnavailable("away")


async def test_deactivated_users_are_not_found(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.world.create_room(ALICE, join=[BOB])
        await database.write(deactivate, BOB)

        assert await scene.found_ids(ALICE, "builder") == []


@pytest.mark.parametrize(("search_all", "expected"), [(True, [BOB]), (False, [])])
async def test_all_users_are_found_if_configured(
    database: Database, search_all: bool, expected: list[str]
) -> None:
    settings = UserDirectorySettings(search_all_users=search_all)
    async with open_scene(database, settings) as scene:
        assert await scene.found_ids(ALICE, "builder") == expected


async def test_pattern_characters_are_matched_literally(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.world.create_room(ALICE, join=[BOB])

        assert await scene.found_ids(ALICE, "%") == []
        assert await scene.found_ids(ALICE, "bo_") == []
