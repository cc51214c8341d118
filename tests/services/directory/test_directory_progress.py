"""A search in the user directory waits until the directory has seen what was committed."""

from typing import Any

import pytest
import trio

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.directory.directory_progress import WAIT_S
from hs.storage.accounts import profiles
from hs.storage.database import Database, Tx
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

DUTY = "user directory"
ADD_USER = "INSERT INTO users (user_id, created_ms) VALUES ($1, 0)"


async def add_users(tx: Tx) -> None:
    for user_id in (ALICE, BOB, CAROL):
        await tx.execute(ADD_USER, user_id)
        await profiles.set_field(tx, user_id, "displayname", "Somebody")


async def found(world: World, term: str) -> list[Any]:
    users = world.process.services.directory.users
    results = (await users.search(Requester(CAROL), term, 10))["results"]
    return [user["user_id"] for user in results]


async def rename(world: World, user_id: UserID, name: str) -> None:
    services = world.process.services.core.accounts.profiles
    await services.set_field(Requester(user_id), user_id, "displayname", name)


async def test_search_finds_a_user_who_joined_and_was_renamed_just_before(
    database: Database,
) -> None:
    await database.write(add_users)
    async with open_world(database) as world, world.process.duties(DUTY):
        await world.create_room(ALICE, join=[BOB])
        joined = await found(world, "bob")
        await rename(world, BOB, "Builder")
        renamed = await found(world, "builder")

        assert (joined, renamed) == ([BOB], [BOB])


async def test_search_finds_what_another_process_changed(database: Database) -> None:
    await database.write(add_users)
    neighbours = Neighbourhood()
    settings = [worker_settings(SETTINGS, name, "main", "worker") for name in ("main", "worker")]
    async with (
        open_world(database, settings[0], neighbours=neighbours) as main,
        open_world(database, settings[1], neighbours=neighbours) as worker,
        main.process.duties(DUTY),
    ):
        await main.create_room(ALICE, join=[BOB])
        await rename(main, BOB, "Builder")

        assert await found(worker, "builder") == [BOB]


async def test_search_does_not_wait_for_ever_nor_twice_if_nobody_writes_the_directory(
    database: Database,
) -> None:
    await database.write(add_users)
    async with open_world(database) as world:
        await world.create_room(ALICE, join=[BOB])

        with trio.fail_after(WAIT_S + 5):
            assert await found(world, "bob") == []
        began = trio.current_time()
        assert await found(world, "bob") == []

        assert trio.current_time() - began < WAIT_S / 2


@pytest.mark.parametrize("term", ["", "  "])
async def test_empty_search_does_not_wait(database: Database, term: str) -> None:
    await database.write(add_users)
    async with open_world(database) as world:
        await world.create_room(ALICE, join=[BOB])
        began = trio.current_time()

        assert await found(world, term) == []

        assert trio.current_time() - began < WAIT_S / 2
