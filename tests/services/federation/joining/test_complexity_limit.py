"""Rooms that are too complex to be joined."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest

from hs.core.errors import MatrixError, RemoteFault
from hs.core.ids import RoomID
from hs.services.federation.requests.complexity import get_complexity
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.federation import RemoteRoomLimit
from hs.storage.database import Database, Tx
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, join, membership_at
from tests.support.composition import SETTINGS
from tests.support.federation import (
    FederatedServer,
    PeerNetwork,
    ScriptedPeer,
    open_server,
    open_servers,
)

COMPLEXITY = "/complexity"
ADD_ADMIN = "INSERT INTO users (user_id, created_ms, is_admin) VALUES ($1, 0, 1)"
LIMIT = RemoteRoomLimit(enabled=True, complexity=0.02, complexity_error="Too large")


async def add_admin(tx: Tx) -> None:
    await tx.execute(ADD_ADMIN, BEN)


@asynccontextmanager
async def open_limited(
    database: Database, limit: RemoteRoomLimit = LIMIT, *, answers: bool = True
) -> AsyncIterator[tuple[FederatedServer, FederatedServer]]:
    """Start a server with a limit, and one that tells the complexity of its rooms or does not."""
    network = PeerNetwork()
    settings = attrs.evolve(SETTINGS, remote_rooms=limit)
    async with (
        open_servers(FAR, network=network) as (far,),
        open_server(NEAR, network, database, settings=settings) as near,
    ):
        if not answers:
            real, silent = network.answers[FAR], ScriptedPeer(FAR, network)
            network.answers[FAR] = lambda request: (
                silent.answer(request) if request.uri.endswith(COMPLEXITY) else real(request)
            )
        yield near, far


async def create_room(far: FederatedServer, more: int) -> RoomID:
    """Create a room with so many state events besides the first four."""
    state = [Draft("x.y", ANN, {}, str(number)) for number in range(more)]
    return await far.world.create_room(ANN, state=state)


async def test_too_complex_room_is_not_asked_for(database: Database) -> None:
    async with open_limited(database) as (near, far):
        room_id = await create_room(far, 20)

        with pytest.raises(MatrixError, match="Too large") as caught:
            await join(near, BEN, room_id, FAR)

        assert caught.value.errcode == "M_RESOURCE_LIMIT_EXCEEDED"
        assert not [uri for uri in near.network.uris(FAR) if "make_join" in uri]


async def test_too_complex_room_is_left_if_its_server_does_not_tell(database: Database) -> None:
    async with open_limited(database, answers=False) as (near, far):
        room_id = await create_room(far, 20)

        with pytest.raises(MatrixError, match="Too large"):
            await join(near, BEN, room_id, FAR)

        assert await membership_at(far, room_id, BEN) == "leave"
        assert await membership_at(near, room_id, BEN) is None


@pytest.mark.parametrize("answers", [True, False])
async def test_small_room_is_joined(database: Database, answers: bool) -> None:
    async with open_limited(database, answers=answers) as (near, far):
        room_id = await create_room(far, 2)

        await join(near, BEN, room_id, FAR)

        assert await membership_at(near, room_id, BEN) == "join"


async def test_administrators_may_be_exempt(database: Database) -> None:
    await database.write(add_admin)
    limit = attrs.evolve(LIMIT, admins_can_join=True)
    async with open_limited(database, limit) as (near, far):
        room_id = await create_room(far, 20)

        await join(near, BEN, room_id, FAR)

        assert await membership_at(near, room_id, BEN) == "join"


async def test_complexity_is_told_to_servers_that_may_join(database: Database) -> None:
    async with open_limited(database) as (near, far):
        public = await create_room(far, 996)
        private = await far.world.create_room(ANN, join_rule="invite")

        assert await get_complexity(near.client, FAR, public) == 2.0
        response = await far.web().get(f"/_matrix/federation/unstable/rooms/{private}/complexity")
        assert response.status == 401
        with pytest.raises(RemoteFault, match="may not join"):
            await get_complexity(near.client, FAR, private)
