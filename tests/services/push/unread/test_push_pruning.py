"""Deletion of the results of old events."""

from typing import Any

from hs.core.ids import RoomID
from hs.services.push.unread.push_pruning import (
    DAY_MS,
    KEPT_DAYS,
    LONGEST_DAYS,
    NotificationCleanup,
)
from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
from tests.support.unread import UnreadScene, open_unread


async def count_rows(database: Database) -> tuple[int, int]:
    """Return the number of stored outcomes and exceptions."""

    async def count(tx: Tx) -> tuple[int, int]:
        outcomes = await tx.fetchval("SELECT count(*) FROM push_outcomes")
        return outcomes, await tx.fetchval("SELECT count(*) FROM push_exceptions")

    return await database.read(count)


async def pass_days(world: World, pruning: NotificationCleanup, days: int) -> None:
    for _ in range(days):
        world.clock.advance(DAY_MS)
        await pruning.clean_up()


async def send_two(world: World, unread: UnreadScene) -> tuple[RoomID, str]:
    """Send two messages as Alice in a room where Carol has a rule of her own."""
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    rule: dict[str, Any] = {"actions": []}
    await unread.rules.writer.put(CAROL, "room", room_id, rule, None, None)
    await world.send(room_id, ALICE, "one")
    last = await world.send(room_id, ALICE, "two")
    await unread.settle()
    return room_id, last.event_id


async def test_results_that_all_have_read_are_deleted_after_a_month(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        pruning = NotificationCleanup(database, world.clock)
        await pruning.clean_up()
        room_id, last = await send_two(world, unread)
        for user_id in (BOB, CAROL):
            await unread.read(user_id, room_id, last)  # type: ignore[arg-type]  # it is an event ID
        before = await count_rows(database)

        await pass_days(world, pruning, KEPT_DAYS)
        kept = await count_rows(database)
        await pass_days(world, pruning, 2)

        assert before == kept == (2, 2)
        assert await count_rows(database) == (0, 0)


async def test_unread_results_are_deleted_after_a_year(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        pruning = NotificationCleanup(database, world.clock)
        room_id, _ = await send_two(world, unread)
        await pruning.clean_up()

        world.clock.advance((LONGEST_DAYS - 1) * DAY_MS)
        await pruning.clean_up()
        kept = await count_rows(database)
        fresh = unread.another_counter()
        count = (await fresh.counts(BOB, [room_id]))[room_id].total()
        await pass_days(world, pruning, 3)

        assert kept == (2, 2)
        assert tuple(count) == (2, 0)
        assert await count_rows(database) == (0, 0)
