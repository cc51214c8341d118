"""GET /sync: its parameters, and clients that disconnect."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest
import trio

from hs.core.requester import Requester
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.rooms import ALICE
from tests.support.syncing import Syncing, bodies, open_syncing
from tests.support.web import Tokens, WebClient

PATH = "/_matrix/client/v3/sync"
SYNC_ONLINE_MS = SETTINGS.presence.sync_online_timeout


@attrs.frozen
class SyncServer:
    """A server and alice's client of it."""

    syncing: Syncing
    client: WebClient

    async def get(self, **query: Any) -> Any:
        return await self.client.get(PATH, token="alice", query=query)


@asynccontextmanager
async def serving(database: Database) -> AsyncIterator[SyncServer]:
    async with open_syncing(database) as syncing:
        tokens = Tokens({"alice": Requester(ALICE, "D")})
        guest = Requester(ALICE, "G", is_guest=True)
        tokens.requesters["guest"] = guest
        yield SyncServer(syncing, syncing.process.client(tokens))


async def test_initial_and_incremental_sync(database: Database) -> None:
    async with serving(database) as server:
        room_id = await server.syncing.world.create_room(ALICE)

        first = await server.get(filter='{"room":{"timeline":{"limit":1}}}')
        await server.syncing.world.send(room_id, ALICE, "news")
        second = await server.get(since=first.json["next_batch"], timeout=60_000)

        assert first.status == second.status == 200
        assert len(first.json["rooms"]["join"][room_id]["timeline"]["events"]) == 1
        assert bodies(second.json["rooms"]["join"][room_id]) == ["news"]


@pytest.mark.parametrize(
    ("query", "status", "errcode"),
    [
        ({"since": "nonsense"}, 400, "M_INVALID_PARAM"),
        ({"since": "s1_2_3"}, 400, "M_INVALID_PARAM"),
        ({"timeout": "soon"}, 400, "M_INVALID_PARAM"),
        ({"full_state": "maybe"}, 400, "M_INVALID_PARAM"),
        ({"set_presence": "asleep"}, 400, "M_INVALID_PARAM"),
        ({"filter": "{"}, 400, "M_BAD_JSON"),
        ({"filter": '{"room":[]}'}, 400, "M_BAD_JSON"),
        ({"filter": "404"}, 404, "M_NOT_FOUND"),
    ],
)
async def test_invalid_parameter_is_rejected(
    database: Database, query: dict[str, str], status: int, errcode: str
) -> None:
    async with serving(database) as server:
        response = await server.get(**query)

        assert (response.status, response.errcode) == (status, errcode)


async def test_sync_requires_a_token_and_admits_guests(database: Database) -> None:
    async with serving(database) as server:
        assert (await server.client.get(PATH)).errcode == "M_MISSING_TOKEN"
        assert (await server.client.get(PATH, token="guest")).status == 200
        assert (await server.client.get(PATH, token="nobody")).errcode == "M_UNKNOWN_TOKEN"


@pytest.mark.parametrize(
    ("parameter", "key"),
    [
        ("use_state_after", "state_after"),
        ("org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after"),
    ],
)
async def test_state_after_by_stable_and_unstable_name(
    database: Database, parameter: str, key: str
) -> None:
    async with serving(database) as server:
        room_id = await server.syncing.world.create_room(ALICE)

        room = (await server.get(**{parameter: "true"})).json["rooms"]["join"][room_id]

        assert "state" not in room
        assert len(room[key]["events"]) == 4


async def test_presence_is_set_by_the_client(database: Database) -> None:
    async with serving(database) as server:
        await server.get()
        by_default = await server.syncing.presence_of(ALICE)
        server.syncing.world.clock.advance(SYNC_ONLINE_MS)
        await server.get(set_presence="offline")
        later = await server.syncing.presence_of(ALICE)

        assert (by_default, later) == ("online", "offline")


async def test_disconnect_ends_the_long_poll(database: Database) -> None:
    async with serving(database) as server:
        await server.syncing.world.create_room(ALICE)
        since = (await server.get()).json["next_batch"]
        disconnected = trio.Event()

        async def poll() -> None:
            with pytest.raises(ConnectionError):
                await server.client.get(
                    PATH,
                    token="alice",
                    query={"since": since, "timeout": 60_000},
                    disconnect=disconnected,
                )

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                disconnected.set()


async def test_huge_timeout_is_accepted(database: Database) -> None:
    async with serving(database) as server:
        room_id = await server.syncing.world.create_room(ALICE)
        first = await server.get()
        await server.syncing.world.send(room_id, ALICE)

        response = await server.get(since=first.json["next_batch"], timeout=2**53 - 1)

        assert response.status == 200
        assert orjson.loads(response.body)["rooms"]


async def test_profile_update_is_sent_to_a_client_whose_filter_names_the_field(
    database: Database,
) -> None:
    async with serving(database) as server:
        await server.syncing.world.create_room(ALICE)
        fields = {"org.matrix.msc4429.profile_fields": {"ids": ["m.status"]}}
        path = f"/_matrix/client/v3/user/{ALICE}/filter"
        stored = await server.client.post(path, fields, token="alice")
        filter_id = stored.json["filter_id"]
        first = await server.get(filter=filter_id)

        for value in ({"text": "away"}, "here"):
            await server.client.put(
                f"/_matrix/client/v3/profile/{ALICE}/m.status", {"m.status": value}, token="alice"
            )
        second = await server.get(since=first.json["next_batch"], filter=filter_id)
        refused = await server.get(filter='{"org.matrix.msc4429.profile_fields":{"ids":"m.tz"}}')

        assert "org.matrix.msc4429.users" not in first.json
        assert second.json["org.matrix.msc4429.users"] == {
            ALICE: {"profile_updates": {"m.status": "here"}}
        }
        assert (refused.status, refused.errcode) == (400, "M_BAD_JSON")
