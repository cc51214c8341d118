"""Positions of pushers: starting and stopping the writing."""

import trio

from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.storage.database import Database


async def test_cancelled_start_leaves_no_task_running(database: Database) -> None:
    positions = PusherPositions(database)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                await nursery.start(positions.run)

    assert scope.cancelled_caught
