"""Rooms joined while the keys of a server could not be had: its events are not in the state."""

from typing import Final

import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation_client.client import segment, uri_of
from hs.services.rooms.store.stored_event import EventStatus
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    DAN,
    FAR,
    NEAR,
    THIRD,
    join,
    membership_at,
)
from tests.services.federation.sending import sending
from tests.support.federation import FederatedServer, open_servers

QUEUES: Final = "incomplete PDUs"
DAY_MS: Final = 24 * 3600 * 1000


async def status_at(server: FederatedServer, event_id: EventID) -> EventStatus:
    """Return the status of an event once a server has it. Raises: TooSlowError."""
    with trio.fail_after(20):
        while (stored := await server.world.events.get_one(event_id)) is None:  # noqa: ASYNC110  # bounded
            await trio.sleep(0.02)
    return EventStatus(stored.status)


async def send(server: FederatedServer, event_id: EventID, receiver: ServerName) -> None:
    """Send an event in a transaction."""
    stored = await server.world.events.get_one(event_id)
    assert stored is not None
    body = b'{"origin":"%b","origin_server_ts":0,"pdus":[%b]}'
    uri = uri_of(f"/_matrix/federation/v1/send/{segment(event_id)}")
    await server.client.request(
        receiver, "PUT", uri, body % (server.name.encode(), stored.event.canonical)
    )


async def send_join(
    joined: FederatedServer, room_id: RoomID, sender: FederatedServer, third: FederatedServer
) -> None:
    """Let a server send the join of Ben to the server of Dan."""
    state = await joined.world.states.current(room_id)
    event_id = state[event_types.MEMBER, BEN]
    await send(sender, event_id, third.name)
    assert await status_at(third, event_id) is EventStatus.ACCEPTED


async def test_users_whose_keys_were_unknown_are_members_after_another_join() -> None:
    async with open_servers(NEAR, FAR, THIRD) as (near, far, third):
        room_id = await far.world.create_room(ANN)
        await join(third, DAN, room_id, FAR)
        far.network.down.add(THIRD)
        await join(near, BEN, room_id, FAR)
        far.network.down.clear()
        near.world.clock.advance(DAY_MS)
        await send_join(near, room_id, far, third)
        assert await membership_at(near, room_id, DAN) is None

        async with near.process.duties(QUEUES), third.process.duties(QUEUES):
            first = (await third.world.send(room_id, DAN, "first")).event_id
            await send(third, first, NEAR)
            assert await status_at(near, first) is EventStatus.REJECTED
            async with sending(near):
                left = await near.world.set_membership(room_id, BEN, BEN, "leave")
                await status_at(far, left.event_id)
            await join(near, BEN, room_id, FAR)
            await send_join(near, room_id, far, third)
            second = (await third.world.send(room_id, DAN, "second")).event_id
            await send(third, second, NEAR)

            assert await status_at(near, second) is EventStatus.ACCEPTED
        assert await membership_at(near, room_id, DAN) == "join"
