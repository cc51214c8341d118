"""A server that shares a room with a scripted one, and the device list of a user of the latter."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.core.canonical_json import JsonObject
from hs.core.ids import ServerName, UserID
from hs.nursery.wiring.federation.users import RemoteDeviceLists
from hs.services.federation_client.peer_transport import PeerRequest
from hs.settings.settings import Settings
from hs.storage.database import Database
from hs.storage.federation import remote_devices
from tests.services.federation.sending import ReceivingPeer, receive, shared_room
from tests.support.composition import SETTINGS, Neighbourhood
from tests.support.devices import Process, plain_keys
from tests.support.federation import FederatedServer, PeerNetwork, open_server
from tests.support.peers import History

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, USER = UserID("@ann:near.example"), UserID("@user:far.example")
GET_DEVICES = (
    f"GET /_matrix/federation/v1/user/devices/{USER.replace('@', '%40').replace(':', '%3A')}"
)
QUERY_KEYS = "POST /_matrix/federation/v1/user/keys/query"


@attrs.define(eq=False)
class DevicePeer:
    """A scripted server whose user has `devices`, at update `stream_id`."""

    peer: ReceivingPeer
    room: History
    devices: list[str] = attrs.Factory(lambda: ["PHONE"])
    stream_id: int = 10
    extra: JsonObject = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        self.peer.responses[GET_DEVICES] = self._list_devices
        self.peer.responses[QUERY_KEYS] = self._query_keys

    def count(self, start: str) -> int:
        """Return how many requests began like this."""
        return sum(f"{sent.method} {sent.uri}".startswith(start) for sent in self.peer.received)

    def update(self, device_id: str, *prev_ids: int, **more: Any) -> JsonObject:
        """Return the content of an update."""
        self.stream_id += 1
        keys = {} if more.get("deleted") else {"keys": plain_keys(USER, device_id)}
        return {
            "user_id": USER,
            "device_id": device_id,
            "stream_id": self.stream_id,
            "prev_id": list(prev_ids or (self.stream_id - 1,)),
            **keys,
            **more,
        }

    async def change_membership(self, near: "Near", *memberships: str) -> None:
        """Let the user join or leave the room."""
        for membership in memberships:
            member = self.room.add(USER, "m.room.member", {"membership": membership}, USER)
            await receive(near.server, member)

    def _list_devices(self, request: PeerRequest) -> tuple[int, Any]:
        devices = [{"device_id": name, "keys": plain_keys(USER, name)} for name in self.devices]
        content = {"user_id": USER, "stream_id": self.stream_id, "devices": devices}
        return 200, {**content, **self.extra}

    def _query_keys(self, request: PeerRequest) -> tuple[int, Any]:
        devices = {name: plain_keys(USER, name) for name in self.devices}
        return 200, {"device_keys": {USER: devices}}


@attrs.frozen(eq=False)
class Near:
    """The server under test."""

    server: FederatedServer

    @property
    def lists(self) -> RemoteDeviceLists:
        """The device lists of users of other servers."""
        lists = self.server.process.services.core.queries.lists
        assert lists is not None
        return lists

    @property
    def devices(self) -> Process:
        """The devices of the server's own users."""
        return Process(self.server.world, self.server.web())

    async def fetch_due(self) -> int:
        """Fetch the stale lists once."""
        return await self.lists.fetching.fetch_due(self.lists.writer)

    async def stale_users(self) -> list[str]:
        """Return the users whose lists are stale."""
        stale = await self.server.world.database.read(remote_devices.stale_lists, -1, "", 10)
        return [record.user_id for record, _ in stale]

    async def kept_users(self) -> list[str]:
        """Return the users whose lists are kept."""
        return await self.server.world.database.read(remote_devices.list_users, "", 10)

    async def query(self, token: str) -> set[str]:
        """Return the devices of the user that a client is shown."""
        response = await self.devices.query(token, USER)
        return set(response["device_keys"].get(USER, {}))


@asynccontextmanager
async def open_near(
    network: PeerNetwork,
    database: Database,
    settings: Settings = SETTINGS,
    neighbours: Neighbourhood | None = None,
) -> AsyncIterator[Near]:
    """Start the server; once more on the same database is a restart."""
    async with open_server(
        NEAR, network, database, settings=settings, neighbours=neighbours
    ) as server:
        yield Near(server)


async def wait_for(read: Callable[[], Awaitable[object]], expected: object) -> None:
    """Wait until a value in the database is the expected one. Raises: TooSlowError."""
    with trio.fail_after(600):
        while await read() != expected:  # noqa: ASYNC110  # no event tells of rows in a table
            await trio.sleep(0.01)


async def share_room(near: Near) -> DevicePeer:
    """Let the server share a room with another one."""
    peer = ReceivingPeer(FAR, near.server.network)
    _, history = await shared_room(near.server, peer)
    return DevicePeer(peer, history)
