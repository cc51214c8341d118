"""Memberships across servers where the process that is asked does not own the room."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.core.streams import EVENTS
from hs.storage.database import Database
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    CLEO,
    FAR,
    NEAR,
    join,
    membership_at,
    membership_of,
    register,
)
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.federation import FederatedServer, PeerNetwork, open_server, open_servers


@asynccontextmanager
async def open_two_processes(
    network: PeerNetwork, database: Database
) -> AsyncIterator[tuple[FederatedServer, FederatedServer]]:
    """Start two processes of near.example that write events; the second one answers requests."""
    neighbours = Neighbourhood()
    writers = ("main", "worker")
    settings = [worker_settings(SETTINGS, name, events=writers) for name in writers]
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                open_server(NEAR, network, database, settings=each, neighbours=neighbours)
            )
            for each in settings
        ]
        yield first, second


def process_without(
    room_id: RoomID, first: FederatedServer, second: FederatedServer
) -> FederatedServer:
    """Return the process that does not own a room."""
    return second if first.process.base.ownership.is_mine(EVENTS, room_id) else first


async def test_join_through_process_that_does_not_own_the_room(database: Database) -> None:
    network = PeerNetwork()
    async with (
        open_servers(FAR, network=network) as (far,),
        open_two_processes(network, database) as (first, second),
    ):
        for _ in range(3):
            room_id = await far.world.create_room(ANN)
            other = process_without(room_id, first, second)

            await join(other, BEN, room_id, FAR)

            assert await membership_at(other, room_id, BEN) == "join"
            await join(first, CLEO, room_id, FAR)
            assert await membership_at(first, room_id, CLEO) == "join"


async def test_invite_arrives_at_process_that_does_not_own_the_room(database: Database) -> None:
    network = PeerNetwork()
    async with (
        open_servers(FAR, network=network) as (far,),
        open_two_processes(network, database) as (first, second),
    ):
        await register(second, BEN)
        for _ in range(3):
            room_id = await far.world.create_room(ANN)
            await membership_of(far).invite(Requester(ANN), room_id, BEN)
            assert await membership_at(second, room_id, BEN) == "invite"
            other = process_without(room_id, first, second)

            await membership_of(other).leave(Requester(BEN), room_id)

            assert await membership_at(other, room_id, BEN) == "leave"
            assert await membership_at(far, room_id, BEN) == "leave"


async def test_room_is_served_by_process_that_does_not_own_it(database: Database) -> None:
    network = PeerNetwork()
    async with (
        open_servers(FAR, network=network) as (far,),
        open_two_processes(network, database) as (first, second),
    ):
        for creator in (first, second):
            room_id = await creator.world.create_room(BEN)
            await join(far, ANN, room_id, NEAR)
            assert await membership_at(creator, room_id, ANN) == "join"
