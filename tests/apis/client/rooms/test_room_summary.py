"""Room summaries and space hierarchies over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.ids import RoomID
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, World, member, open_world
from tests.support.web import WebClient


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


@pytest.fixture
def client(world: World) -> WebClient:
    return client_of(readers_of(world), ALICE, BOB)


async def create_space(world: World, name: str, join_rule: str = "public") -> RoomID:
    drafts = [
        Draft("m.room.create", ALICE, {"type": "m.space"}, ""),
        member(ALICE, "join"),
        Draft("m.room.power_levels", ALICE, {"users": {ALICE: 100}}, ""),
        Draft("m.room.join_rules", ALICE, {"join_rule": join_rule}, ""),
        Draft("m.room.name", ALICE, {"name": name}, ""),
    ]
    return (await world.appender.create("11", drafts))[0].room_id


async def add_child(world: World, parent: RoomID, child: RoomID, **content: Any) -> None:
    content = {"via": ["test.example"], **content}
    await world.set_state(parent, ALICE, "m.space.child", content, child)


async def create_hierarchy(world: World) -> tuple[RoomID, RoomID, RoomID, RoomID]:
    """Create a space with a room, a space with another room in it, and an invite-only room."""
    top, below = await create_space(world, "top"), await create_space(world, "below")
    room, deep = await world.create_room(ALICE), await world.create_room(ALICE)
    secret = await world.create_room(ALICE, join_rule="invite")
    await add_child(world, top, room, order="b")
    await add_child(world, top, below, order="a", suggested=True)
    await add_child(world, top, secret)
    await add_child(world, below, deep)
    await add_child(world, below, top)
    return top, below, room, deep


async def test_hierarchy_is_depth_first_without_inaccessible_rooms(
    world: World, client: WebClient
) -> None:
    top, below, room, deep = await create_hierarchy(world)
    path = f"/_matrix/client/v1/rooms/{top}/hierarchy"

    async def room_ids(**query: Any) -> list[str]:
        response = await client.get(path, token=BOB, query=query)
        return [room["room_id"] for room in response.json["rooms"]]

    response = (await client.get(path, token=BOB)).json

    assert [room["room_id"] for room in response["rooms"]] == [top, below, deep, room]
    assert response["rooms"][0]["room_type"] == "m.space"
    assert len(response["rooms"][0]["children_state"]) == 3
    assert response["rooms"][0]["children_state"][0]["state_key"] == below
    assert "origin_server_ts" in response["rooms"][0]["children_state"][0]
    assert response["rooms"][3]["children_state"] == []
    assert await room_ids(max_depth=1) == [top, below, room]
    assert await room_ids(suggested_only="true") == [top, below]
    assert len((await client.get(path, token=ALICE)).json["rooms"]) == 5


async def test_hierarchy_is_paginated(world: World, client: WebClient) -> None:
    top, below, room, deep = await create_hierarchy(world)
    path = f"/_matrix/client/v1/rooms/{top}/hierarchy"

    first = (await client.get(path, token=BOB, query={"limit": 2})).json
    token = first["next_batch"]
    second = (await client.get(path, token=BOB, query={"limit": 2, "from": token})).json
    changed = await client.get(path, token=BOB, query={"from": token, "max_depth": 1})
    invalid = await client.get(path, token=BOB, query={"from": "rubbish"})

    assert [room["room_id"] for room in first["rooms"]] == [top, below]
    assert [room["room_id"] for room in second["rooms"]] == [deep, room]
    assert "next_batch" not in second
    assert (changed.status, changed.errcode) == (400, "M_INVALID_PARAM")
    assert (invalid.status, invalid.errcode) == (400, "M_INVALID_PARAM")


async def test_hierarchy_of_an_inaccessible_space_is_rejected(
    world: World, client: WebClient
) -> None:
    secret = await create_space(world, "secret", "invite")

    response = await client.get(f"/_matrix/client/v1/rooms/{secret}/hierarchy", token=BOB)

    assert (response.status, response.errcode) == (403, "M_FORBIDDEN")


async def test_member_of_an_allowed_room_reads_the_summary_of_a_restricted_room(
    world: World, client: WebClient
) -> None:
    top = await create_space(world, "top")
    allow = [{"type": "m.room_membership", "room_id": top}]
    rules = {"join_rule": "restricted", "allow": allow}
    room_id = await world.create_room(ALICE)
    await world.set_state(room_id, ALICE, "m.room.join_rules", rules)
    path = f"/_matrix/client/v1/room_summary/{room_id}"

    before = await client.get(path, token=BOB)
    await world.join(top, BOB)
    after = await client.get(path, token=BOB)

    assert (before.status, before.errcode) == (404, "M_NOT_FOUND")
    assert after.json["join_rule"] == "restricted"
    assert after.json["allowed_room_ids"] == [top]


async def test_anybody_reads_the_summary_of_a_public_room(world: World, client: WebClient) -> None:
    room_id = await create_space(world, "name")
    path = f"/_matrix/client/v1/room_summary/{room_id}"

    unauthenticated = await client.get(path)
    own = await client.get(path, token=ALICE)
    unstable = await client.get(
        f"/_matrix/client/unstable/im.nheko.summary/rooms/{room_id}/summary", token=ALICE
    )

    assert unauthenticated.json == {
        "room_id": room_id,
        "name": "name",
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "room_version": "11",
        "join_rule": "public",
        "room_type": "m.space",
    }
    assert own.json == unstable.json == {**unauthenticated.json, "membership": "join"}


async def test_unknown_room_has_no_summary(world: World, client: WebClient) -> None:
    base = "/_matrix/client/v1/room_summary"

    for room, status in (("!none:x", 404), ("%23none:test.example", 404), ("none", 400)):
        assert (await client.get(f"{base}/{room}", token=ALICE)).status == status
