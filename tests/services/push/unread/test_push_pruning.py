"""Deletion of the results of old events."""

from typing import Any

from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.push.unread.push_pruning import (
    DAY_MS,
    KEPT_DAYS,
    LONGEST_DAYS,
)
from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.unread import UnreadScene, open_unread


async def count_rows(database: Database) -> tuple[int, int]:
    """Return the number of stored outcomes and exceptions."""

    async def count(tx: Tx) -> tuple[int, int]:
        outcomes = await tx.fetchval("SELECT count(*) FROM push_outcomes")
        return outcomes, await tx.fetchval("SELECT count(*) FROM push_exceptions")

    return await database.read(count)


async def clean_up(unread: UnreadScene) -> None:
    await unread.world.process.run_duty("notification cleanup")


async def pass_days(unread: UnreadScene, days: int) -> None:
    for _ in range(days):
        unread.world.clock.advance(DAY_MS)
        await clean_up(unread)


async def send_two(unread: UnreadScene) -> tuple[RoomID, EventID]:
    """Send two messages as Alice in a room where Carol has a rule of her own."""
    world = unread.world
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    rule: dict[str, Any] = {"actions": []}
    await unread.rules.put(Requester(CAROL), "room", room_id, rule, None, None)
    await world.send(room_id, ALICE, "one")
    last = await world.send(room_id, ALICE, "two")
    await unread.settle()
    return room_id, last.event_id


async def test_results_that_all_have_read_are_deleted_after_a_month(database: Database) -> None:
    async with open_unread(database) as unread:
        await clean_up(unread)
        room_id, last = await send_two(unread)
        for user_id in (BOB, CAROL):
            await unread.read(user_id, room_id, last)
        before = await count_rows(database)

        await pass_days(unread, KEPT_DAYS)
        kept = await count_rows(database)
        await pass_days(unread, 2)

        assert before == kept == (2, 2)
        assert await count_rows(database) == (0, 0)


async def test_unread_results_are_deleted_after_a_year(database: Database) -> None:
    async with open_unread(database) as unread:
        room_id, _ = await send_two(unread)
        await clean_up(unread)

        unread.world.clock.advance((LONGEST_DAYS - 1) * DAY_MS)
        await clean_up(unread)
        kept = await count_rows(database)
        async with unread.another_process() as fresh:
            count = await fresh.count(BOB, room_id)
        await pass_days(unread, 3)

        assert kept == (2, 2)
        assert count == (2, 0)
        assert await count_rows(database) == (0, 0)
