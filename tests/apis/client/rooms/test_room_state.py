"""Reading the state of rooms over HTTP."""

from collections.abc import AsyncIterator

import attrs
import pytest

from hs.core.streams import EVENTS
from hs.core.tokens import SyncToken
from hs.settings.sections.appservices import AppserviceSettings
from hs.storage.database import Database
from tests.support.appservices import GHOST, registration
from tests.support.composition import SETTINGS
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, member, open_world
from tests.support.web import WebClient


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


@pytest.fixture
def client(world: World) -> WebClient:
    return client_of(readers_of(world), ALICE, BOB, CAROL)


async def test_member_reads_the_current_state(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    named = await world.set_state(room_id, ALICE, "m.room.name", {"name": "x"})
    base = f"/_matrix/client/v3/rooms/{room_id}/state"

    state = (await client.get(base, token=ALICE)).json
    content = await client.get(f"{base}/m.room.name", token=ALICE)
    slashed = await client.get(f"{base}/m.room.name/", token=ALICE)
    event = await client.get(f"{base}/m.room.name", token=ALICE, query={"format": "event"})
    missing = await client.get(f"{base}/m.room.topic", token=ALICE)

    assert len(state) == 5
    assert all(event["room_id"] == room_id for event in state)
    assert content.json == slashed.json == {"name": "x"}
    assert event.json["event_id"] == named.event_id
    assert event.json["state_key"] == ""
    assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")


async def test_former_member_reads_the_state_at_their_leave(
    world: World, client: WebClient
) -> None:
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
    assert {event["state_key"] for event in members.json["chunk"]} == {ALICE, BOB}
    assert (joined.status, joined.errcode) == (403, "M_FORBIDDEN")


async def test_state_is_forbidden_to_strangers_and_invited_users(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, invite=[BOB])
    base = f"/_matrix/client/v3/rooms/{room_id}"

    for user_id in (BOB, CAROL):
        for path in ("state", "state/m.room.create", "members", "joined_members"):
            response = await client.get(f"{base}/{path}", token=user_id)
            assert (response.status, response.errcode) == (403, "M_FORBIDDEN")


async def test_application_service_reads_joined_members_of_rooms_of_its_users(
    database: Database,
) -> None:
    service = registration("irc")
    settings = attrs.evolve(SETTINGS, appservices=AppserviceSettings(registrations=(service,)))
    async with open_world(database, settings) as world:
        client = world.process.client()
        room_id = await world.create_room(ALICE, invite=[GHOST])
        base = f"/_matrix/client/v3/rooms/{room_id}"

        invited = await client.get(f"{base}/joined_members", token=service.as_token)
        await world.join(room_id, GHOST)
        joined = await client.get(f"{base}/joined_members", token=service.as_token)
        members = await client.get(f"{base}/members", token=service.as_token)
        await world.leave(room_id, GHOST)
        left = await client.get(f"{base}/joined_members", token=service.as_token)

    assert joined.json["joined"].keys() == {ALICE, GHOST}
    assert [response.errcode for response in (invited, members, left)] == ["M_FORBIDDEN"] * 3


async def test_anybody_reads_the_state_of_a_world_readable_room(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE)
    await world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )

    response = await client.get(f"/_matrix/client/v3/rooms/{room_id}/state", token=CAROL)

    assert len(response.json) == 5


async def test_members_are_filtered_by_membership(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB], invite=[CAROL])
    await world.leave(room_id, BOB)
    path = f"/_matrix/client/v3/rooms/{room_id}/members"

    async def member_ids(**query: str) -> set[str]:
        response = await client.get(path, token=ALICE, query=query)
        return {event["state_key"] for event in response.json["chunk"]}

    assert await member_ids() == {ALICE, BOB, CAROL}
    assert await member_ids(membership="join") == {ALICE}
    assert await member_ids(not_membership="leave") == {ALICE, CAROL}
    assert await member_ids(membership="leave", not_membership="join") == {BOB, CAROL}
    invalid = await client.get(path, token=ALICE, query={"membership": "x"})
    assert (invalid.status, invalid.errcode) == (400, "M_INVALID_PARAM")


async def test_members_at_a_token(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    token = SyncToken(events=world.feed.position(EVENTS)).encode()
    await world.join(room_id, BOB)

    response = await client.get(
        f"/_matrix/client/v3/rooms/{room_id}/members", token=ALICE, query={"at": token}
    )

    assert [event["state_key"] for event in response.json["chunk"]] == [ALICE]


async def test_stranger_reads_members_at_a_time_when_the_room_was_world_readable(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE)
    closed_token = SyncToken(events=world.feed.position(EVENTS)).encode()
    visible = {"history_visibility": "world_readable"}
    await world.set_state(room_id, ALICE, "m.room.history_visibility", visible)
    await world.send(room_id, ALICE)
    open_token = SyncToken(events=world.feed.position(EVENTS)).encode()
    await world.join(room_id, BOB)
    path = f"/_matrix/client/v3/rooms/{room_id}/members"

    before = await client.get(path, token=CAROL, query={"at": closed_token})
    after = await client.get(path, token=CAROL, query={"at": open_token})

    assert (before.status, before.errcode) == (403, "M_FORBIDDEN")
    assert [event["state_key"] for event in after.json["chunk"]] == [ALICE]


async def test_joined_members_have_profiles(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, invite=[CAROL])
    await world.append(room_id, member(BOB, "join", displayname="Bob", avatar_url="mxc://x/y"))

    response = await client.get(f"/_matrix/client/v3/rooms/{room_id}/joined_members", token=ALICE)

    assert response.json["joined"] == {
        ALICE: {"display_name": None, "avatar_url": None},
        BOB: {"display_name": "Bob", "avatar_url": "mxc://x/y"},
    }


async def test_joined_rooms_excludes_invites_and_left_rooms(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.create_room(ALICE, invite=[BOB])
    left = await world.create_room(ALICE, join=[BOB])
    await world.leave(left, BOB)

    response = await client.get("/_matrix/client/v3/joined_rooms", token=BOB)

    assert response.json == {"joined_rooms": [room_id]}
