"""Invites that the room takes back while this server is not in it."""

import pytest

from hs.core.events.event import Event
from hs.core.ids import RoomID
from hs.core.requester import Requester
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    FAR,
    NEAR,
    membership_at,
    membership_of,
    register,
)
from tests.support.federation import FederatedServer, open_servers


async def invite_and_take_back(far: FederatedServer, end: str) -> tuple[RoomID, Event]:
    room_id = await far.world.create_room(ANN)
    await membership_of(far).invite(Requester(ANN), room_id, BEN)
    await far.world.set_membership(room_id, ANN, BEN, end)
    stored = await far.world.states.current_event(room_id, "m.room.member", BEN)
    assert stored is not None
    return room_id, stored.event


@pytest.mark.parametrize("end", ["leave", "ban"])
async def test_invite_is_taken_back(end: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id, event = await invite_and_take_back(far, end)

        stored = await near.process.services.core.rooms.withdrawals.receive(
            room_id, [event.canonical]
        )

        assert stored == {event.event_id}
        assert await membership_at(near, room_id, BEN) == end


async def test_events_that_do_not_cite_the_invite_are_ignored() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id, event = await invite_and_take_back(far, "leave")
        await membership_of(far).invite(Requester(ANN), room_id, BEN)
        withdrawals = near.process.services.core.rooms.withdrawals

        for pdu in (event.canonical, b"{", b"[]", event.canonical.replace(b"leave", b"ban")):
            assert await withdrawals.receive(room_id, [pdu]) == set()

        assert await membership_at(near, room_id, BEN) == "invite"
