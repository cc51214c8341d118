"""What administrators see of destinations, and what they change."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from hs.core.ids import RoomID, ServerName, UserID
from hs.core.requester import Requester
from hs.settings.sections.federation import PeerRequestSettings
from hs.storage.database import Database
from hs.storage.federation import outbound
from hs.storage.federation.outbound import BehindRecord
from tests.services.federation.sending import ReceivingPeer, shared_room
from tests.support.composition import SETTINGS
from tests.support.federation import FederatedServer, PeerNetwork, open_server
from tests.support.web import Tokens, WebClient, WebResponse

NEAR, FAR, OTHER = (ServerName(f"{name}.example") for name in ("near", "far", "other"))
DESTINATIONS = "/_synapse/admin/v1/federation/destinations"
ROOT = Requester(UserID("@root:near.example"), is_admin=True)
ANN = Requester(UserID("@ann:near.example"))
SETTINGS_WITH_BACKOFF = attrs.evolve(SETTINGS, peer_requests=PeerRequestSettings())


@attrs.frozen(eq=False)
class Scene:
    """A server that shares rooms with two others, of which one is down."""

    near: FederatedServer
    client: WebClient
    rooms: list[RoomID]

    async def get(self, path: str = "", **query: Any) -> WebResponse:
        return await self.client.get(DESTINATIONS + path, token="root", query=query)


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    network = PeerNetwork()
    async with open_server(NEAR, network, database, settings=SETTINGS_WITH_BACKOFF) as near:
        far, other = ReceivingPeer(FAR, network), ReceivingPeer(OTHER, network)
        rooms = [(await shared_room(near, far, other))[0] for _ in range(2)]
        await near.process.services.core.federation.backoff.failed(FAR)
        client = near.process.client(Tokens({"root": ROOT, "ann": ANN}))
        yield Scene(near, client, sorted(rooms))


async def test_destinations_are_listed_in_pages_and_orders(database: Database) -> None:
    async with open_scene(database) as scene:
        now_ms = scene.near.process.clock.now_ms()
        everything = (await scene.get()).json
        first = (await scene.get(limit=1, order_by="failure_ts", dir="b")).json
        second = (await scene.get(**{"limit": 1, "from": first["next_token"]})).json

    names = [each["destination"] for each in everything["destinations"]]
    assert names == [FAR, "one.example", OTHER]
    assert everything["total"] == 3
    assert "next_token" not in everything
    (failing,) = first["destinations"]
    assert 0 < failing.pop("retry_interval") < 5000
    assert failing == {
        "destination": FAR,
        "retry_last_ts": now_ms,
        "failure_ts": now_ms,
        "last_successful_stream_ordering": None,
    }
    assert second["next_token"] == "2"
    assert second["destinations"][0]["destination"] == "one.example"


async def test_destination_and_its_rooms(database: Database) -> None:
    async with open_scene(database) as scene:
        behind = BehindRecord(FAR, 1, 7, 0)
        await database.write(outbound.set_behind, [behind])
        details, unknown = await scene.get(f"/{FAR}"), await scene.get("/unknown.example")
        healthy = await scene.get(f"/{OTHER}")
        rooms = (await scene.get(f"/{FAR}/rooms", dir="b")).json
        page = (await scene.get(f"/{OTHER}/rooms", limit=1)).json

    assert details.json["last_successful_stream_ordering"] == 7
    assert healthy.json == {
        "destination": OTHER,
        "retry_last_ts": 0,
        "retry_interval": 0,
        "failure_ts": None,
        "last_successful_stream_ordering": None,
    }
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert [room["room_id"] for room in rooms["rooms"]] == scene.rooms[::-1]
    assert rooms["total"] == 2
    assert (page["total"], page["next_token"]) == (2, "1")


async def test_destination_that_fails_is_tried_again(database: Database) -> None:
    async with open_scene(database) as scene:
        path = f"{DESTINATIONS}/{FAR}/reset_connection"
        done = await scene.client.post(path, {}, token="root")
        details = await scene.get(f"/{FAR}")
        again = await scene.client.post(path, {}, token="root")

    assert done.status == 200
    assert details.json["retry_last_ts"] == 0
    assert again.status == 400


async def test_only_administrators_may_ask(database: Database) -> None:
    async with open_scene(database) as scene:
        for path in ("", f"/{FAR}", f"/{FAR}/rooms"):
            response = await scene.client.get(DESTINATIONS + path, token="ann")
            assert (response.status, response.errcode) == (403, "M_FORBIDDEN")
        reset = await scene.client.post(f"{DESTINATIONS}/{FAR}/reset_connection", {}, token="ann")
        assert reset.status == 403
