"""Summaries of rooms and the trees below spaces over HTTP."""

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
    async with open_world(database) as opened:
        yield opened


@pytest.fixture
def client(world: World) -> WebClient:
    return client_of(readers_of(world), ALICE, BOB)


async def space(world: World, name: str, join_rule: str = "public") -> RoomID:
    drafts = [
        Draft("m.room.create", ALICE, {"type": "m.space"}, ""),
        member(ALICE, "join"),
        Draft("m.room.power_levels", ALICE, {"users": {ALICE: 100}}, ""),
        Draft("m.room.join_rules", ALICE, {"join_rule": join_rule}, ""),
        Draft("m.room.name", ALICE, {"name": name}, ""),
    ]
    return (await world.appender.create("11", drafts))[0].room_id


async def adopt(world: World, parent: RoomID, child: RoomID, **content: Any) -> None:
    content = {"via": ["test.example"], **content}
    await world.set_state(parent, ALICE, "m.space.child", content, child)


async def tree(world: World) -> tuple[RoomID, RoomID, RoomID, RoomID]:
    """Make a space with a room, a space below with a room of its own, and a secret room."""
    top, below = await space(world, "top"), await space(world, "below")
    room, deep = await world.create_room(ALICE), await world.create_room(ALICE)
    secret = await world.create_room(ALICE, join_rule="invite")
    await adopt(world, top, room, order="b")
    await adopt(world, top, below, order="a", suggested=True)
    await adopt(world, top, secret)
    await adopt(world, below, deep)
    await adopt(world, below, top)
    return top, below, room, deep


async def test_a_tree_is_walked_depth_first_without_secret_rooms(
    world: World, client: WebClient
) -> None:
    top, below, room, deep = await tree(world)
    path = f"/_matrix/client/v1/rooms/{top}/hierarchy"

    async def found(**query: Any) -> list[str]:
        answer = await client.get(path, token=BOB, query=query)
        return [one["room_id"] for one in answer.json["rooms"]]

    answer = (await client.get(path, token=BOB)).json

    assert [one["room_id"] for one in answer["rooms"]] == [top, below, deep, room]
    assert answer["rooms"][0]["room_type"] == "m.space"
    assert len(answer["rooms"][0]["children_state"]) == 3
    assert answer["rooms"][0]["children_state"][0]["state_key"] == below
    assert "origin_server_ts" in answer["rooms"][0]["children_state"][0]
    assert answer["rooms"][3]["children_state"] == []
    assert await found(max_depth=1) == [top, below, room]
    assert await found(suggested_only="true") == [top, below]
    assert len((await client.get(path, token=ALICE)).json["rooms"]) == 5


async def test_a_tree_comes_in_pages(world: World, client: WebClient) -> None:
    top, below, room, deep = await tree(world)
    path = f"/_matrix/client/v1/rooms/{top}/hierarchy"

    first = (await client.get(path, token=BOB, query={"limit": 2})).json
    token = first["next_batch"]
    second = (await client.get(path, token=BOB, query={"limit": 2, "from": token})).json
    changed = await client.get(path, token=BOB, query={"from": token, "max_depth": 1})
    bad = await client.get(path, token=BOB, query={"from": "rubbish"})

    assert [one["room_id"] for one in first["rooms"]] == [top, below]
    assert [one["room_id"] for one in second["rooms"]] == [deep, room]
    assert "next_batch" not in second
    assert (changed.status, changed.errcode) == (400, "M_INVALID_PARAM")
    assert (bad.status, bad.errcode) == (400, "M_INVALID_PARAM")


async def test_trees_of_secret_rooms_are_refused(world: World, client: WebClient) -> None:
    secret = await space(world, "secret", "invite")

    answer = await client.get(f"/_matrix/client/v1/rooms/{secret}/hierarchy", token=BOB)

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_members_of_an_allowed_room_see_restricted_ones(
    world: World, client: WebClient
) -> None:
    top = await space(world, "top")
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


async def test_anybody_gets_the_summary_of_a_public_room(world: World, client: WebClient) -> None:
    room_id = await space(world, "name")
    path = f"/_matrix/client/v1/room_summary/{room_id}"

    unknown = await client.get(path)
    own = await client.get(path, token=ALICE)
    unstable = await client.get(
        f"/_matrix/client/unstable/im.nheko.summary/rooms/{room_id}/summary", token=ALICE
    )

    assert unknown.json == {
        "room_id": room_id,
        "name": "name",
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "room_version": "11",
        "join_rule": "public",
        "room_type": "m.space",
    }
    assert own.json == unstable.json == {**unknown.json, "membership": "join"}


async def test_unknown_rooms_have_no_summary(world: World, client: WebClient) -> None:
    base = "/_matrix/client/v1/room_summary"

    for room, status in (("!none:x", 404), ("%23none:test.example", 404), ("none", 400)):
        assert (await client.get(f"{base}/{room}", token=ALICE)).status == status
