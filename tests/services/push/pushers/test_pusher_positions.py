"""How far pushers have come: that writing it ends when it should."""

import trio

from hs.services.push.pushers.pusher_positions import Positions
from hs.storage.database import Database


async def test_a_start_that_is_given_up_leaves_nothing_running(database: Database) -> None:
    positions = Positions(database)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                await nursery.start(positions.run)

    assert scope.cancelled_caught
