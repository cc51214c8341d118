"""The effects of the user directory's settings on a search."""

import pytest

from hs.core.ids import UserID
from hs.settings.sections.features import UserDirectorySettings
from hs.storage.database import Database, Tx
from tests.services.directory.test_user_directory import Scene, open_scene
from tests.support.rooms import ALICE, BOB, CAROL, ZOE

LOCK = "UPDATE users SET is_locked = 1 WHERE user_id = $1"


async def lock(tx: Tx, user_id: str) -> None:
    await tx.execute(LOCK, user_id)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (UserDirectorySettings(), [ALICE, BOB, ZOE]),
        (UserDirectorySettings(enabled=False), []),
        (UserDirectorySettings(search_all_users=True), [ALICE, BOB, CAROL, ZOE]),
        (UserDirectorySettings(exclude_remote_users=True), [ALICE, BOB]),
    ],
    ids=["default", "enabled", "search_all_users", "exclude_remote_users"],
)
async def test_settings_select_the_users_that_are_found(
    database: Database, settings: UserDirectorySettings, expected: list[UserID]
) -> None:
    async with open_scene(database, settings) as scene:
        await scene.world.create_room(ALICE, join=[BOB, ZOE])

        assert sorted(await scene.found_ids(BOB, "example")) == expected


@pytest.mark.parametrize("prefer", [False, True])
async def test_local_users_come_first_if_configured(database: Database, prefer: bool) -> None:
    async with open_scene(database, UserDirectorySettings(prefer_local_users=prefer)) as scene:
        # Zoe's name begins with the word, so she is the better match.
        await _join_zoe(scene)

        user_ids = await scene.found_ids(ALICE, "builder")

        assert user_ids == ([BOB, ZOE] if prefer else [ZOE, BOB])


@pytest.mark.parametrize("shown", [False, True])
async def test_locked_users_are_found_if_configured(database: Database, shown: bool) -> None:
    async with open_scene(database, UserDirectorySettings(show_locked_users=shown)) as scene:
        await scene.world.create_room(ALICE, join=[BOB])
        await database.write(lock, BOB)

        assert await scene.found_ids(ALICE, "builder") == ([BOB] if shown else [])


async def _join_zoe(scene: Scene) -> None:
    room_id = await scene.world.create_room(ALICE, join=[BOB])
    content = {"membership": "join", "displayname": "Builder Zoe"}
    await scene.world.set_state(room_id, ZOE, "m.room.member", content, ZOE)
