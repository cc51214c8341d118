"""What users of several servers do with rooms, for the tests of this folder."""

from typing import Any

from hs.core.ids import RoomID, ServerName, UserID, localpart_of
from hs.core.requester import Requester
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from tests.support.federation import FederatedServer

NEAR, FAR, THIRD = (ServerName(f"{name}.example") for name in ("near", "far", "third"))
ANN = UserID("@ann:far.example")
BEN = UserID("@ben:near.example")
CLEO = UserID("@cleo:near.example")
DAN = UserID("@dan:third.example")


def membership_of(server: FederatedServer) -> RoomMembership:
    """Return what changes memberships on a server."""
    return server.process.services.members.membership


def joins_of(server: FederatedServer) -> RoomJoins:
    """Return what joins users to rooms on a server."""
    return server.process.services.members.joins


async def join(server: FederatedServer, user_id: UserID, room_id: RoomID, *via: ServerName) -> None:
    """Let a user join through some servers."""
    await joins_of(server).join(Requester(user_id), room_id, JoinRequest(via=via))


async def knock(
    server: FederatedServer, user_id: UserID, room_id: RoomID, *via: ServerName
) -> None:
    """Let a user knock through some servers."""
    await joins_of(server).knock(Requester(user_id), room_id, JoinRequest(via=via))


async def membership_at(server: FederatedServer, room_id: RoomID, user_id: UserID) -> str | None:
    """Return the membership of a user as a server knows it."""
    return await server.world.memberships.membership(room_id, user_id)


async def register(server: FederatedServer, user_id: UserID) -> str:
    """Create an account and return an access token."""
    body = {
        "username": localpart_of(user_id),
        "password": "correct horse battery",
        "auth": {"type": "m.login.dummy"},
    }
    response = await server.web().post("/_matrix/client/v3/register", body)
    assert response.status == 200, response.body
    return str(response.json["access_token"])


async def sync(server: FederatedServer, token: str, since: str | None = None) -> dict[str, Any]:
    """Return the response of a sync without waiting."""
    query = {} if since is None else {"since": since}
    response = await server.web().get("/_matrix/client/v3/sync", token=token, query=query)
    assert response.status == 200, response.body
    return dict(response.json)
