"""Servers that send to each other: what one sends, the others have."""

from functools import partial

import trio.testing

from hs.core.ids import EventID, ServerName, UserID
from hs.core.requester import Requester
from tests.services.federation.outbound.test_catching_up import wait_until_behind
from tests.services.federation.sending import announce_heard, sending, wait_until
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import FederatedServer, open_servers

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BOB = UserID("@ann:near.example"), UserID("@bob:far.example")


class SeenEvents:
    """The IDs of the accepted events that a server has stored since this was made."""

    def __init__(self, server: FederatedServer) -> None:
        self._world = server.world

    def has(self, event_id: EventID) -> bool:
        """Return whether an event was stored."""
        return any(
            row.event_id == event_id and not (row.outlier or row.rejected or row.soft_failed)
            for _, row in self._world.seen
        )


async def test_messages_go_both_ways(autojump_clock: trio.testing.MockClock) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await near.world.create_room(ANN)
        async with sending(near), sending(far):
            await join_through(near, far, room_id, BOB)
            near_events, far_events = SeenEvents(near), SeenEvents(far)
            for _ in range(3):
                ours = (await near.world.send(room_id, ANN)).event_id
                await wait_until(partial(far_events.has, ours))
                theirs = (await far.world.send(room_id, BOB)).event_id
                await wait_until(partial(near_events.has, theirs))

            typing = near.process.services.ephemeral.typing
            users = far.process.services.ephemeral.typing_users
            async with near.process.duties("typing"), far.process.duties("typing"):
                await typing.set_typing(Requester(ANN), room_id, ANN, 60_000)
                await wait_until(lambda: users.typing_users(room_id) == (ANN,))


async def test_server_that_was_away_has_the_same_messages(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await near.world.create_room(ANN)
        async with sending(near), sending(far):
            await join_through(near, far, room_id, BOB)
            seen = SeenEvents(far)
            near.network.down.add(FAR)
            missed = [(await near.world.send(room_id, ANN, str(n))).event_id for n in range(5)]
            await wait_until_behind(near)
            near.network.down.clear()
            await announce_heard(near, FAR)

            # It gets the last one, and asks for those before it.
            async with far.process.duties("incomplete PDUs"):
                await wait_until(lambda: all(map(seen.has, missed)))
