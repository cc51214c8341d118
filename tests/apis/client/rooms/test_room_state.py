"""Reading rooms' state over HTTP."""

from collections.abc import AsyncIterator

import pytest

from hs.core.tokens import SyncToken
from hs.repl.streams import EVENTS
from hs.services.appservices.appservice_registry import ServiceRegistry
from hs.storage.database import Database
from tests.support.appservices import GHOST, registration
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, SERVER, World, member, open_world
from tests.support.web import WebClient


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


@pytest.fixture
def client(world: World) -> WebClient:
    return client_of(readers_of(world), ALICE, BOB, CAROL)


async def test_members_get_the_state_as_it_is_now(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    named = await world.set_state(room_id, ALICE, "m.room.name", {"name": "x"})
    base = f"/_matrix/client/v3/rooms/{room_id}/state"

    everything = (await client.get(base, token=ALICE)).json
    content = await client.get(f"{base}/m.room.name", token=ALICE)
    slashed = await client.get(f"{base}/m.room.name/", token=ALICE)
    whole = await client.get(f"{base}/m.room.name", token=ALICE, query={"format": "event"})
    missing = await client.get(f"{base}/m.room.topic", token=ALICE)

    assert len(everything) == 5
    assert all(one["room_id"] == room_id for one in everything)
    assert content.json == slashed.json == {"name": "x"}
    assert whole.json["event_id"] == named.event_id
    assert whole.json["state_key"] == ""
    assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")


async def test_who_left_gets_the_state_as_it_was(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.set_state(room_id, ALICE, "m.room.name", {"name": "then"})
    await world.leave(room_id, BOB)
    await world.set_state(room_id, ALICE, "m.room.name", {"name": "now"})
    await world.join(room_id, CAROL)
    base = f"/_matrix/client/v3/rooms/{room_id}"

    name = await client.get(f"{base}/state/m.room.name", token=BOB)
    own = await client.get(f"{base}/state/m.room.member/{BOB}", token=BOB)
    members = await client.get(f"{base}/members", token=BOB)
    joined = await client.get(f"{base}/joined_members", token=BOB)

    assert name.json == {"name": "then"}
    assert own.json == {"membership": "leave"}
    assert {one["state_key"] for one in members.json["chunk"]} == {ALICE, BOB}
    assert (joined.status, joined.errcode) == (403, "M_FORBIDDEN")


async def test_strangers_and_the_invited_are_refused(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, invite=[BOB])
    base = f"/_matrix/client/v3/rooms/{room_id}"

    for user_id in (BOB, CAROL):
        for path in ("state", "state/m.room.create", "members", "joined_members"):
            answer = await client.get(f"{base}/{path}", token=user_id)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_services_get_the_joined_members_of_rooms_with_one_of_their_users(
    world: World,
) -> None:
    services = ServiceRegistry([registration("irc")], SERVER)
    client = client_of(readers_of(world), services=services)
    room_id = await world.create_room(ALICE, invite=[GHOST])
    base = f"/_matrix/client/v3/rooms/{room_id}"

    invited = await client.get(f"{base}/joined_members", token="irc")
    await world.join(room_id, GHOST)
    joined = await client.get(f"{base}/joined_members", token="irc")
    members = await client.get(f"{base}/members", token="irc")
    await world.leave(room_id, GHOST)
    gone = await client.get(f"{base}/joined_members", token="irc")

    assert joined.json["joined"].keys() == {ALICE, GHOST}
    assert [one.errcode for one in (invited, members, gone)] == ["M_FORBIDDEN"] * 3


async def test_anybody_gets_the_state_of_world_readable_rooms(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE)
    await world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )

    answer = await client.get(f"/_matrix/client/v3/rooms/{room_id}/state", token=CAROL)

    assert len(answer.json) == 5


async def test_members_by_membership(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB], invite=[CAROL])
    await world.leave(room_id, BOB)
    path = f"/_matrix/client/v3/rooms/{room_id}/members"

    async def found(**query: str) -> set[str]:
        answer = await client.get(path, token=ALICE, query=query)
        return {one["state_key"] for one in answer.json["chunk"]}

    assert await found() == {ALICE, BOB, CAROL}
    assert await found(membership="join") == {ALICE}
    assert await found(not_membership="leave") == {ALICE, CAROL}
    assert await found(membership="leave", not_membership="join") == {BOB, CAROL}
    bad = await client.get(path, token=ALICE, query={"membership": "x"})
    assert (bad.status, bad.errcode) == (400, "M_INVALID_PARAM")


async def test_members_at_a_token(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    token = SyncToken(events=world.feed.position(EVENTS)).encode()
    await world.join(room_id, BOB)

    answer = await client.get(
        f"/_matrix/client/v3/rooms/{room_id}/members", token=ALICE, query={"at": token}
    )

    assert [one["state_key"] for one in answer.json["chunk"]] == [ALICE]


async def test_strangers_get_the_members_of_when_the_room_was_open(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE)
    closed = SyncToken(events=world.feed.position(EVENTS)).encode()
    visible = {"history_visibility": "world_readable"}
    await world.set_state(room_id, ALICE, "m.room.history_visibility", visible)
    await world.send(room_id, ALICE)
    opened = SyncToken(events=world.feed.position(EVENTS)).encode()
    await world.join(room_id, BOB)
    path = f"/_matrix/client/v3/rooms/{room_id}/members"

    before = await client.get(path, token=CAROL, query={"at": closed})
    after = await client.get(path, token=CAROL, query={"at": opened})

    assert (before.status, before.errcode) == (403, "M_FORBIDDEN")
    assert [one["state_key"] for one in after.json["chunk"]] == [ALICE]


async def test_joined_members_with_their_profiles(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, invite=[CAROL])
    await world.append(room_id, member(BOB, "join", displayname="Bob", avatar_url="mxc://x/y"))

    answer = await client.get(f"/_matrix/client/v3/rooms/{room_id}/joined_members", token=ALICE)

    assert answer.json["joined"] == {
        ALICE: {},
        BOB: {"display_name": "Bob", "avatar_url": "mxc://x/y"},
    }


async def test_joined_rooms_are_those_one_is_in(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.create_room(ALICE, invite=[BOB])
    left = await world.create_room(ALICE, join=[BOB])
    await world.leave(left, BOB)

    answer = await client.get("/_matrix/client/v3/joined_rooms", token=BOB)

    assert answer.json == {"joined_rooms": [room_id]}
