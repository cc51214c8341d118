"""Guests who join rooms of other servers."""

import pytest

from hs.core.errors import GuestForbidden, MatrixError, RemoteFault
from hs.core.ids import RoomID, ServerName
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.room_joins import JoinRequest
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    FAR,
    NEAR,
    joins_of,
    membership_at,
    membership_of,
    register,
)
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_servers

MAKE_JOIN = "/_matrix/federation/v1/make_join"
ROOM = RoomID("!tea:far.example")


@pytest.mark.parametrize("is_invited", [True, False])
async def test_guest_joins_room_that_allows_guests(is_invited: bool) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await _create_room(far, "can_join", "invite" if is_invited else "public")
        if is_invited:
            await _invite(near, far, room_id)

        await _join_as_guest(near, room_id)

        assert await membership_at(far, room_id, BEN) == "join"


@pytest.mark.parametrize("guest_access", ["forbidden", None])
async def test_guest_is_refused_where_guests_are_forbidden(guest_access: str | None) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await _create_room(far, guest_access, "invite")
        await _invite(near, far, room_id)

        with pytest.raises(GuestForbidden):
            await _join_as_guest(near, room_id)

        assert await membership_at(far, room_id, BEN) == "invite"
        assert not [uri for uri in far.network.uris(FAR) if uri.startswith(MAKE_JOIN)]


async def test_guest_is_refused_where_the_room_is_not_shown() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await _create_room(far, "can_join", "invite")

        with pytest.raises(GuestForbidden):
            await _join_as_guest(near, room_id)


async def test_answer_about_another_room_decides_nothing() -> None:
    network = PeerNetwork()
    peer = ScriptedPeer(FAR, network)
    room = {"num_joined_members": 1, "world_readable": True, "guest_can_join": True}
    peer.responses["GET /_matrix/federation/v1/hierarchy"] = (
        200,
        {"room": {**room, "room_id": "!other:far.example"}},
    )
    async with open_servers(NEAR, network=network) as (near,):
        with pytest.raises(RemoteFault, match="another room"):
            await _join_as_guest(near, ROOM)


async def test_guest_cannot_join_through_servers_that_are_away() -> None:
    async with open_servers(NEAR) as (near,):
        with pytest.raises((RemoteFault, MatrixError)) as caught:
            await _join_as_guest(near, ROOM, ServerName("dead.example"))

    assert not isinstance(caught.value, GuestForbidden)


async def _create_room(far: FederatedServer, guest_access: str | None, join_rule: str) -> RoomID:
    content = {"guest_access": guest_access}
    state = [] if guest_access is None else [Draft("m.room.guest_access", ANN, content, "")]
    return await far.world.create_room(ANN, state=state, join_rule=join_rule)


async def _invite(near: FederatedServer, far: FederatedServer, room_id: RoomID) -> None:
    await register(near, BEN)
    await membership_of(far).invite(Requester(ANN), room_id, BEN)


async def _join_as_guest(near: FederatedServer, room_id: RoomID, via: ServerName = FAR) -> None:
    guest = Requester(BEN, is_guest=True)
    await joins_of(near).join(guest, room_id, JoinRequest(via=(via,)))
