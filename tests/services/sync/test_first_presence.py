"""The first sync of a device and the presence that it causes."""

import trio

from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB
from tests.support.syncing import news, open_syncing


async def test_second_sync_of_a_device_is_not_woken_by_the_presence_of_the_first(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        first = await s.sync(ALICE)
        # The duty that reports syncing devices runs at some time after the request began.
        await s.services.ephemeral.presence.devices.flush()

        second = await s.sync(ALICE, first["next_batch"], timeout_ms=300)

        assert news(second) == {}


async def test_first_sync_of_another_device_does_not_wake_the_user(database: Database) -> None:
    async with open_syncing(database) as s:
        first = await s.sync(ALICE)
        await s.sync(ALICE, device_id="OTHER")
        await s.services.ephemeral.presence.devices.flush()

        assert news(await s.sync(ALICE, first["next_batch"], timeout_ms=300)) == {}


async def test_first_sync_is_still_announced_to_others(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(BOB))["next_batch"]

        await s.sync(ALICE)
        with trio.fail_after(10):
            answer = await s.sync(BOB, since, timeout_ms=5000)

        assert ALICE in [event["sender"] for event in answer["presence"]["events"]]
