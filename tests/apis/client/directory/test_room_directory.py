"""Aliases, the room directory and its search over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from hs.core.ids import RoomID
from hs.services.directory import aliases
from hs.settings.sections.rooms import RoomRule
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.room_actions import Actions, open_actions, room_settings
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.web import WebResponse

V3 = "/_matrix/client/v3"
ALIAS = f"%23here:{SERVER}"


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as actions:
        yield actions


def outcome(response: WebResponse) -> tuple[int, str | None]:
    return response.status, response.json.get("errcode")


async def add_alias(
    actions: Actions, alias: str, room_id: Any, token: str = "alice"
) -> WebResponse:
    client = actions.client()
    body = {} if room_id is None else {"room_id": room_id}
    return await client.put(f"{V3}/directory/room/{alias}", body, token=token)


async def test_alias_is_created_resolved_and_deleted(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    client = actions.client()
    path = f"{V3}/directory/room/{ALIAS}"

    before = await client.get(path)
    created = await add_alias(actions, ALIAS, room_id)
    repeated = await add_alias(actions, ALIAS, room_id)
    resolved = await client.get(path)
    listed = await client.get(f"{V3}/rooms/{room_id}/aliases", token="bob")
    by_bob = await client.delete(path, token="bob")
    removed = await client.delete(path, token="alice")
    after = await client.delete(path, token="alice")

    assert outcome(before) == outcome(after) == (404, "M_NOT_FOUND")
    assert created.json == removed.json == {}
    assert outcome(repeated) == (409, "M_UNKNOWN")
    assert resolved.json == {"room_id": room_id, "servers": [SERVER]}
    assert listed.json == {"aliases": [f"#here:{SERVER}"]}
    assert outcome(by_bob) == (403, "M_FORBIDDEN")


async def test_invalid_alias_is_rejected(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)

    responses = [
        await add_alias(actions, "%23far:elsewhere.example", room_id),
        await add_alias(actions, "here", room_id),
        await add_alias(actions, f"%23:{SERVER}", room_id),
        await add_alias(actions, ALIAS, None),
        await add_alias(actions, ALIAS, 5),
        await add_alias(actions, ALIAS, "x"),
        await add_alias(actions, ALIAS, f"!unknown:{SERVER}"),
        await add_alias(actions, ALIAS, room_id, "bob"),
        await actions.client().get(f"{V3}/directory/room/here"),
        await actions.client().get(f"{V3}/directory/room/%23far:elsewhere.example"),
    ]

    assert [outcome(response) for response in responses] == [
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_MISSING_PARAM"),
        (400, "M_BAD_JSON"),
        (400, "M_INVALID_PARAM"),
        (404, "M_NOT_FOUND"),
        (403, "M_FORBIDDEN"),
        (400, "M_INVALID_PARAM"),
        (502, "M_UNKNOWN"),
    ]


async def test_deleted_alias_is_removed_from_the_canonical_alias(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    for name in ("here", "there"):
        await actions.aliases.add(BOB, actions.aliases.local_alias(name), room_id)
    content = {"alias": f"#here:{SERVER}", "alt_aliases": [f"#there:{SERVER}"], "x": 1}
    await actions.world.set_state(room_id, ALICE, "m.room.canonical_alias", content)
    client = actions.client()

    await client.delete(f"{V3}/directory/room/{ALIAS}", token="alice")
    by_creator = await client.delete(f"{V3}/directory/room/%23there:{SERVER}", token="bob")

    assert by_creator.status == 200
    remaining = {"alt_aliases": [f"#there:{SERVER}"], "x": 1}
    assert await actions.state(room_id, "m.room.canonical_alias") == remaining


async def test_concurrently_deleted_aliases_are_all_removed_from_the_canonical_alias(
    actions: Actions,
) -> None:
    room_id = await actions.world.create_room(ALICE)
    aliases = [actions.aliases.local_alias(f"name{n}") for n in range(5)]
    for alias in aliases:
        await actions.aliases.add(ALICE, alias, room_id)
    content = {"alt_aliases": aliases, "x": 1}
    await actions.world.set_state(room_id, ALICE, "m.room.canonical_alias", content)
    client = actions.client()

    async def remove(alias: str) -> None:
        path = f"{V3}/directory/room/%23{alias[1:]}"
        assert (await client.delete(path, token="alice")).status == 200

    async with trio.open_nursery() as nursery:
        for alias in aliases:
            nursery.start_soon(remove, alias)

    assert await actions.state(room_id, "m.room.canonical_alias") == {"x": 1}


async def test_local_aliases_require_membership_or_a_world_readable_room(
    actions: Actions,
) -> None:
    room_id = await actions.world.create_room(ALICE)
    path = f"{V3}/rooms/{room_id}/aliases"
    client = actions.client()

    private = await client.get(path, token="carol")
    unknown = await client.get(f"{V3}/rooms/!no:where.example/aliases", token="carol")
    await actions.world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    open_to_all = await client.get(path, token="carol")

    assert outcome(private) == outcome(unknown) == (403, "M_FORBIDDEN")
    assert open_to_all.json == {"aliases": []}


async def test_listing_a_room_requires_power_or_an_administrator(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    path = f"{V3}/directory/list/room/{room_id}"
    client = actions.client()

    before = await client.get(path)
    by_bob = await client.put(path, {"visibility": "public"}, token="bob")
    listed = await client.put(path, {}, token="alice")
    after = await client.get(path)
    unknown = f"{V3}/directory/list/room/!no:where.example"
    unknown_room = [await client.get(unknown), await client.put(unknown, {}, token="alice")]
    invalid = await client.put(path, {"visibility": "maybe"}, token="alice")
    actions.user(CAROL, is_admin=True)
    by_admin = await client.put(path, {"visibility": "private"}, token="carol")

    assert before.json == {"visibility": "private"}
    assert outcome(by_bob) == (403, "M_FORBIDDEN")
    assert listed.json == by_admin.json == {}
    assert after.json == {"visibility": "public"}
    assert [outcome(response) for response in unknown_room] == [(404, "M_NOT_FOUND")] * 2
    assert outcome(invalid) == (400, "M_BAD_JSON")


async def test_publication_rules_match_aliases(database: Database) -> None:
    rules = (RoomRule(alias="#good*", action="allow"), RoomRule(action="deny"))
    settings = room_settings(room_list_publication_rules=rules)
    async with open_actions(database, settings) as actions:
        room_id = await actions.world.create_room(ALICE)
        path = f"{V3}/directory/list/room/{room_id}"

        without_alias = await actions.client().put(path, {}, token="alice")
        await actions.aliases.add(ALICE, actions.aliases.local_alias("good-name"), room_id)
        with_alias = await actions.client().put(path, {}, token="alice")

        assert outcome(without_alias) == (403, "M_FORBIDDEN")
        assert with_alias.status == 200


async def create_listed_room(actions: Actions, name: str, **options: Any) -> RoomID:
    body = {"visibility": "public", "name": name, **options}
    response = await actions.client().post(f"{V3}/createRoom", body, token="alice")
    room_id: RoomID = response.json["room_id"]
    return room_id


async def search(actions: Actions, **body: Any) -> Any:
    response = await actions.client().post(f"{V3}/publicRooms", body, token="bob")
    assert response.status == 200, response.json
    return response.json


async def test_directory_entry_of_a_room(actions: Actions) -> None:
    room_id = await create_listed_room(
        actions,
        "Ponies",
        topic="Horses",
        room_alias_name="ponies",
        creation_content={"type": "m.space"},
        initial_state=[
            {"type": "m.room.avatar", "content": {"url": "mxc://a/b"}},
            {
                "type": "m.room.history_visibility",
                "content": {"history_visibility": "world_readable"},
            },
        ],
    )

    page = await search(actions)

    assert page == {
        "chunk": [
            {
                "room_id": room_id,
                "name": "Ponies",
                "topic": "Horses",
                "canonical_alias": f"#ponies:{SERVER}",
                "avatar_url": "mxc://a/b",
                "num_joined_members": 1,
                "world_readable": True,
                "guest_can_join": False,
                "join_rule": "public",
                "room_type": "m.space",
            }
        ],
        "total_room_count_estimate": 1,
    }


async def test_directory_is_paginated_in_both_directions_by_size(actions: Actions) -> None:
    rooms = [await create_listed_room(actions, f"room {number}") for number in range(5)]
    await actions.world.join(rooms[3], BOB)
    await actions.world.join(rooms[3], CAROL)
    await actions.world.join(rooms[1], BOB)

    first = await search(actions, limit=2)
    second = await search(actions, limit=2, since=first["next_batch"])
    third = await search(actions, limit=2, since=second["next_batch"])
    second_again = await search(actions, limit=2, since=third["prev_batch"])
    first_again = await search(actions, limit=2, since=second_again["prev_batch"])
    by_get = await actions.client().get(f"{V3}/publicRooms?limit=2", token="bob")

    pages = [[room["room_id"] for room in page["chunk"]] for page in (first, second, third)]
    assert pages[0] == [rooms[3], rooms[1]]
    assert sorted(room_id for page in pages for room_id in page) == sorted(rooms)
    assert "next_batch" not in third
    assert "prev_batch" not in first
    assert [room["room_id"] for room in second_again["chunk"]] == pages[1]
    assert [room["room_id"] for room in first_again["chunk"]] == pages[0]
    assert "prev_batch" not in first_again
    assert first["total_room_count_estimate"] == 5
    assert by_get.json == first


async def test_search_matches_name_topic_alias_and_type(actions: Actions) -> None:
    cats = await create_listed_room(actions, "Cats 100%", room_alias_name="felines")
    space = await create_listed_room(
        actions, "Animals", topic="of CATS", creation_content={"type": "m.space"}
    )
    await create_listed_room(actions, "Dogs")

    async def search_ids(**criteria: Any) -> set[str]:
        return {room["room_id"] for room in (await search(actions, filter=criteria))["chunk"]}

    assert await search_ids(generic_search_term="cats") == {cats, space}
    assert await search_ids(generic_search_term="FELINE") == {cats}
    assert await search_ids(generic_search_term="0%") == {cats}
    assert await search_ids(generic_search_term="_") == set()
    assert await search_ids(room_types=["m.space"]) == {space}
    assert cats in await search_ids(room_types=[None])
    assert space not in await search_ids(room_types=[None])
    assert await search_ids(room_types=[]) == set()
    assert len(await search_ids(room_types=[None, "m.space"])) == 3


async def test_private_and_empty_rooms_are_not_in_the_directory(actions: Actions) -> None:
    private = await create_listed_room(actions, "Shut", preset="private_chat")
    empty = await create_listed_room(actions, "Empty")
    await actions.world.leave(empty, ALICE)
    knock = await create_listed_room(
        actions,
        "Knock",
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}],
    )

    page = await search(actions)

    assert [room["room_id"] for room in page["chunk"]] == [knock]
    assert private not in str(page)


async def test_invalid_directory_request_is_rejected(actions: Actions) -> None:
    client = actions.client()
    path = f"{V3}/publicRooms"

    responses = [
        await client.get(path),
        await client.get(f"{path}?since=nonsense", token="bob"),
        await client.get(f"{path}?since=WzFd", token="bob"),
        await client.get(f"{path}?limit=-1", token="bob"),
        await client.get(f"{path}?limit=x", token="bob"),
        await client.get(f"{path}?server=elsewhere.example", token="bob"),
        await client.post(path, {"filter": 5}, token="bob"),
        await client.post(path, {"filter": {"room_types": [5]}}, token="bob"),
        await client.post(path, {"limit": "many"}, token="bob"),
        await client.get(f"{path}?server={SERVER}", token="bob"),
    ]

    assert [outcome(response) for response in responses] == [
        (401, "M_MISSING_TOKEN"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (502, "M_UNKNOWN"),
        (400, "M_BAD_JSON"),
        (400, "M_BAD_JSON"),
        (400, "M_BAD_JSON"),
        (200, None),
    ]


async def test_aliases_of_a_room_are_limited(
    actions: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "MAX_ALIASES", 2)
    room_id = await actions.world.create_room(ALICE)

    responses = [
        await add_alias(actions, f"%23{name}:{SERVER}", room_id) for name in ("a", "b", "c")
    ]

    assert [outcome(response) for response in responses] == [
        (200, None),
        (200, None),
        (413, "M_TOO_LARGE"),
    ]
