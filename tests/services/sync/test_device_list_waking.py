"""Changed device lists end the long polls of users who share a room, whatever their number."""

from typing import Any

import trio

from hs.core.ids import UserID
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sql.counting import CountingDatabase, QueryCount
from tests.support.syncing import Syncing, open_syncing

DUTY = "remote device lists"
WAIT_S = 30
LONG_MS = 60_000


async def change_keys(scene: Syncing, user_id: UserID) -> None:
    await scene.services.core.device_writers.lists.announce(user_id, ["DEVICE"])


async def check_woken(scene: Syncing, changed: UserID, *, duties: tuple[str, ...] = ()) -> None:
    since = (await scene.sync(ALICE))["next_batch"]
    with trio.fail_after(WAIT_S):
        async with scene.process.duties(*duties), trio.open_nursery() as nursery:
            nursery.start_soon(change_keys_when_waiting, scene, changed)
            answer = await scene.sync(ALICE, since, timeout_ms=LONG_MS)

    assert answer["device_lists"]["changed"] == [changed]


async def change_keys_when_waiting(scene: Syncing, user_id: UserID) -> None:
    while not scene.notifier.waiting:
        await trio.lowlevel.checkpoint()
    await change_keys(scene, user_id)


async def test_change_of_a_user_who_syncs_here_wakes_members(database: Database) -> None:
    async with open_syncing(database) as scene:
        await scene.world.create_room(ALICE, join=[BOB])
        await scene.sync(BOB)

        await check_woken(scene, BOB)


async def test_change_of_a_user_who_is_in_memory_wakes_members(database: Database) -> None:
    async with open_syncing(database) as scene:
        await scene.world.create_room(ALICE, join=[BOB])
        await scene.world.memberships.rooms_of(BOB)

        await check_woken(scene, BOB)


async def test_change_of_a_user_who_is_not_in_memory_wakes_members(database: Database) -> None:
    async with open_syncing(database) as scene:
        await scene.world.create_room(ALICE, join=[BOB])

    async with open_syncing(database) as scene:
        assert scene.world.memberships.rooms_of_nowait(BOB) is None

        await check_woken(scene, BOB, duties=(DUTY,))


async def test_change_of_a_user_who_shares_no_room_wakes_nobody(database: Database) -> None:
    async with open_syncing(database) as scene:
        room_id = await scene.world.create_room(ALICE, join=[BOB])
        await scene.world.create_room(CAROL)
        await scene.sync(CAROL)
        with scene.notifier.watching(ALICE, [room_id]) as watch:
            before = watch.changes

            await change_keys(scene, CAROL)

            assert watch.changes == before


async def test_change_is_written_without_looking_rooms_up(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_syncing(counting) as scene:
        await scene.world.create_room(ALICE)
        count.statements.clear()

        await change_keys(scene, ALICE)

    assert count.statements
    assert not any("FROM current_state" in statement for statement in count.statements)
