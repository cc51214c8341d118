"""What polls cost while the presence of users changes who share no room with their users."""

from typing import Any

import pytest

from hs.core.ids import UserID
from hs.storage.database import Database
from tests.support.counting import counting_steps
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import Syncing, news, open_syncing

STRANGERS = [UserID(f"@stranger{number}:test.example") for number in range(300)]


async def steps_of_poll(s: Syncing, since: str) -> int:
    with counting_steps() as steps:
        answer = await s.sync(ALICE, since)
    assert news(answer) == {}
    return steps.count


@pytest.mark.parametrize("changed", [1, len(STRANGERS)])
async def test_poll_costs_no_more_when_strangers_come_and_go(
    database: Database, changed: int
) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await s.sync(ALICE)
        since = (await s.sync(ALICE))["next_batch"]
        quiet = min([await steps_of_poll(s, since) for _ in range(3)])

        for user_id in STRANGERS[:changed]:
            await s.set_presence(user_id, "online")
        busy = min([await steps_of_poll(s, since) for _ in range(3)])

        assert busy < quiet + 1000


async def test_poll_finds_the_few_of_many_who_share_a_room(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]

        for user_id in (*STRANGERS[:50], BOB, CAROL, *STRANGERS[50:]):
            await s.set_presence(user_id, "online")
        answer = await s.sync(ALICE, since, timeout_ms=1000)

        senders = [event["sender"] for event in answer["presence"]["events"]]
        assert set(senders) - {ALICE} == {BOB}


async def test_poll_without_presence_is_not_answered_when_members_come_and_go(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        only_rooms: dict[str, Any] = {"presence": {"types": []}}
        since = (await s.sync(ALICE, filter=only_rooms))["next_batch"]

        await s.set_presence(BOB, "online")
        answer = await s.sync(ALICE, since, filter=only_rooms)

        assert news(answer) == {}
        assert answer["next_batch"] != since
