"""GET /sync: its parameters, and clients that hang up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest
import trio

from hs.apis.client.sync.sync import SyncApi
from hs.core.requester import Requester
from hs.storage.database import Database
from tests.support.rooms import ALICE
from tests.support.syncing import Syncing, bodies, open_syncing
from tests.support.web import Tokens, WebClient, client_for

PATH = "/_matrix/client/v3/sync"


@attrs.frozen
class Served:
    """A server and a client of it, with Alice's token."""

    syncing: Syncing
    client: WebClient

    async def get(self, **query: Any) -> Any:
        return await self.client.get(PATH, token="alice", query=query)


@asynccontextmanager
async def served(database: Database) -> AsyncIterator[Served]:
    async with open_syncing(database) as syncing:
        tokens = Tokens({"alice": Requester(ALICE, "D")})
        guest = Requester(ALICE, "G", is_guest=True)
        tokens.requesters["guest"] = guest
        yield Served(syncing, client_for(SyncApi(syncing.service), tokens=tokens))


async def test_first_and_later(database: Database) -> None:
    async with served(database) as one:
        room_id = await one.syncing.world.create_room(ALICE)

        first = await one.get(filter='{"room":{"timeline":{"limit":1}}}')
        await one.syncing.world.send(room_id, ALICE, "news")
        second = await one.get(since=first.json["next_batch"], timeout=60_000)

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
async def test_what_is_refused(
    database: Database, query: dict[str, str], status: int, errcode: str
) -> None:
    async with served(database) as one:
        answer = await one.get(**query)

        assert (answer.status, answer.errcode) == (status, errcode)


async def test_who_may_ask(database: Database) -> None:
    async with served(database) as one:
        assert (await one.client.get(PATH)).errcode == "M_MISSING_TOKEN"
        assert (await one.client.get(PATH, token="guest")).status == 200
        assert (await one.client.get(PATH, token="nobody")).errcode == "M_UNKNOWN_TOKEN"


@pytest.mark.parametrize(
    ("parameter", "member"),
    [
        ("use_state_after", "state_after"),
        ("org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after"),
    ],
)
async def test_state_after_by_both_names(database: Database, parameter: str, member: str) -> None:
    async with served(database) as one:
        room_id = await one.syncing.world.create_room(ALICE)

        room = (await one.get(**{parameter: "true"})).json["rooms"]["join"][room_id]

        assert "state" not in room
        assert len(room[member]["events"]) == 4


async def test_presence_is_as_the_client_says(database: Database) -> None:
    async with served(database) as one:
        await one.get()
        await one.get(set_presence="offline")

        assert one.syncing.tables.syncs == [(ALICE, "online"), (ALICE, "offline")]


async def test_a_client_that_hangs_up_is_not_waited_for(database: Database) -> None:
    async with served(database) as one:
        await one.syncing.world.create_room(ALICE)
        since = (await one.get()).json["next_batch"]
        hang_up = trio.Event()

        async def poll() -> None:
            with pytest.raises(ConnectionError):
                await one.client.get(
                    PATH,
                    token="alice",
                    query={"since": since, "timeout": 60_000},
                    hang_up=hang_up,
                )

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                hang_up.set()


async def test_a_huge_timeout_is_taken(database: Database) -> None:
    async with served(database) as one:
        room_id = await one.syncing.world.create_room(ALICE)
        first = await one.get()
        await one.syncing.world.send(room_id, ALICE)

        answer = await one.get(since=first.json["next_batch"], timeout=2**53 - 1)

        assert answer.status == 200
        assert orjson.loads(answer.body)["rooms"]
