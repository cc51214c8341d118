"""Aliases, listing rooms and searching the list over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from hs.core.ids import RoomID
from hs.settings.sections.rooms import RoomRule, RoomSettings
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, SERVER
from tests.support.web import Answer

V3 = "/_matrix/client/v3"
HERE = f"%23here:{SERVER}"


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


def verdict(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.json.get("errcode")


async def add(acts: Actions, alias: str, room_id: Any, token: str = "alice") -> Answer:
    client = acts.client()
    body = {} if room_id is None else {"room_id": room_id}
    return await client.put(f"{V3}/directory/room/{alias}", body, token=token)


async def test_aliases_are_made_found_and_removed(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    client = acts.client()
    path = f"{V3}/directory/room/{HERE}"

    before = await client.get(path)
    made = await add(acts, HERE, room_id)
    again = await add(acts, HERE, room_id)
    found = await client.get(path)
    listed = await client.get(f"{V3}/rooms/{room_id}/aliases", token="bob")
    by_bob = await client.delete(path, token="bob")
    removed = await client.delete(path, token="alice")
    after = await client.delete(path, token="alice")

    assert verdict(before) == verdict(after) == (404, "M_NOT_FOUND")
    assert made.json == removed.json == {}
    assert verdict(again) == (409, "M_UNKNOWN")
    assert found.json == {"room_id": room_id, "servers": [SERVER]}
    assert listed.json == {"aliases": [f"#here:{SERVER}"]}
    assert verdict(by_bob) == (403, "M_FORBIDDEN")


async def test_aliases_that_cannot_be(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)

    answers = [
        await add(acts, "%23far:elsewhere.example", room_id),
        await add(acts, "here", room_id),
        await add(acts, f"%23:{SERVER}", room_id),
        await add(acts, HERE, None),
        await add(acts, HERE, 5),
        await add(acts, HERE, "x"),
        await add(acts, HERE, f"!unknown:{SERVER}"),
        await add(acts, HERE, room_id, "bob"),
        await acts.client().get(f"{V3}/directory/room/here"),
        await acts.client().get(f"{V3}/directory/room/%23far:elsewhere.example"),
    ]

    assert [verdict(one) for one in answers] == [
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_MISSING_PARAM"),
        (400, "M_BAD_JSON"),
        (400, "M_INVALID_PARAM"),
        (404, "M_NOT_FOUND"),
        (403, "M_FORBIDDEN"),
        (400, "M_INVALID_PARAM"),
        (404, "M_NOT_FOUND"),
    ]


async def test_a_removed_alias_is_taken_out_of_the_canonical_alias(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    for name in ("here", "there"):
        await acts.aliases.add(BOB, acts.aliases.named(name), room_id)
    content = {"alias": f"#here:{SERVER}", "alt_aliases": [f"#there:{SERVER}"], "x": 1}
    await acts.world.set_state(room_id, ALICE, "m.room.canonical_alias", content)
    client = acts.client()

    await client.delete(f"{V3}/directory/room/{HERE}", token="alice")
    by_maker = await client.delete(f"{V3}/directory/room/%23there:{SERVER}", token="bob")

    assert by_maker.status == 200
    kept = {"alt_aliases": [f"#there:{SERVER}"], "x": 1}
    assert await acts.state(room_id, "m.room.canonical_alias") == kept


async def test_aliases_removed_at_once_are_all_taken_out(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    aliases = [acts.aliases.named(f"name{n}") for n in range(5)]
    for alias in aliases:
        await acts.aliases.add(ALICE, alias, room_id)
    content = {"alt_aliases": aliases, "x": 1}
    await acts.world.set_state(room_id, ALICE, "m.room.canonical_alias", content)
    client = acts.client()

    async def remove(alias: str) -> None:
        path = f"{V3}/directory/room/%23{alias[1:]}"
        assert (await client.delete(path, token="alice")).status == 200

    async with trio.open_nursery() as nursery:
        for alias in aliases:
            nursery.start_soon(remove, alias)

    assert await acts.state(room_id, "m.room.canonical_alias") == {"x": 1}


async def test_aliases_of_a_room_are_for_members_or_for_all_where_all_may_read(
    acts: Actions,
) -> None:
    room_id = await acts.world.create_room(ALICE)
    path = f"{V3}/rooms/{room_id}/aliases"
    client = acts.client()

    shut = await client.get(path, token="carol")
    unknown = await client.get(f"{V3}/rooms/!no:where.example/aliases", token="carol")
    await acts.world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    open_to_all = await client.get(path, token="carol")

    assert verdict(shut) == verdict(unknown) == (403, "M_FORBIDDEN")
    assert open_to_all.json == {"aliases": []}


async def test_rooms_are_listed_by_who_may(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    path = f"{V3}/directory/list/room/{room_id}"
    client = acts.client()

    before = await client.get(path)
    by_bob = await client.put(path, {"visibility": "public"}, token="bob")
    listed = await client.put(path, {}, token="alice")
    after = await client.get(path)
    unknown = f"{V3}/directory/list/room/!no:where.example"
    nowhere = [await client.get(unknown), await client.put(unknown, {}, token="alice")]
    wrong = await client.put(path, {"visibility": "maybe"}, token="alice")
    acts.user(CAROL, is_admin=True)
    by_admin = await client.put(path, {"visibility": "private"}, token="carol")

    assert before.json == {"visibility": "private"}
    assert verdict(by_bob) == (403, "M_FORBIDDEN")
    assert listed.json == by_admin.json == {}
    assert after.json == {"visibility": "public"}
    assert [verdict(one) for one in nowhere] == [(404, "M_NOT_FOUND")] * 2
    assert verdict(wrong) == (400, "M_BAD_JSON")


async def test_rules_about_aliases_decide_what_is_published(database: Database) -> None:
    rules = (RoomRule(alias="#good*", action="allow"), RoomRule(action="deny"))
    settings = RoomSettings(room_list_publication_rules=rules)
    async with open_actions(database, settings=settings) as acts:
        room_id = await acts.world.create_room(ALICE)
        path = f"{V3}/directory/list/room/{room_id}"

        nameless = await acts.client().put(path, {}, token="alice")
        await acts.aliases.add(ALICE, acts.aliases.named("good-name"), room_id)
        named = await acts.client().put(path, {}, token="alice")

        assert verdict(nameless) == (403, "M_FORBIDDEN")
        assert named.status == 200


async def listed_room(acts: Actions, name: str, **asked: Any) -> RoomID:
    body = {"visibility": "public", "name": name, **asked}
    answer = await acts.client().post(f"{V3}/createRoom", body, token="alice")
    room_id: RoomID = answer.json["room_id"]
    return room_id


async def search(acts: Actions, **body: Any) -> Any:
    answer = await acts.client().post(f"{V3}/publicRooms", body, token="bob")
    assert answer.status == 200, answer.json
    return answer.json


async def test_a_listed_room_is_shown_with_what_it_says_of_itself(acts: Actions) -> None:
    room_id = await listed_room(
        acts,
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

    shown = await search(acts)

    assert shown == {
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


async def test_rooms_are_paged_both_ways_the_largest_first(acts: Actions) -> None:
    rooms = [await listed_room(acts, f"room {number}") for number in range(5)]
    await acts.world.join(rooms[3], BOB)
    await acts.world.join(rooms[3], CAROL)
    await acts.world.join(rooms[1], BOB)

    first = await search(acts, limit=2)
    second = await search(acts, limit=2, since=first["next_batch"])
    third = await search(acts, limit=2, since=second["next_batch"])
    back = await search(acts, limit=2, since=third["prev_batch"])
    start = await search(acts, limit=2, since=back["prev_batch"])
    get = await acts.client().get(f"{V3}/publicRooms?limit=2", token="bob")

    pages = [[one["room_id"] for one in page["chunk"]] for page in (first, second, third)]
    assert pages[0] == [rooms[3], rooms[1]]
    assert sorted(one for page in pages for one in page) == sorted(rooms)
    assert "next_batch" not in third
    assert "prev_batch" not in first
    assert [one["room_id"] for one in back["chunk"]] == pages[1]
    assert [one["room_id"] for one in start["chunk"]] == pages[0]
    assert "prev_batch" not in start
    assert first["total_room_count_estimate"] == 5
    assert get.json == first


async def test_searches_match_names_topics_aliases_and_types(acts: Actions) -> None:
    cats = await listed_room(acts, "Cats 100%", room_alias_name="felines")
    space = await listed_room(
        acts, "Animals", topic="of CATS", creation_content={"type": "m.space"}
    )
    await listed_room(acts, "Dogs")

    async def found(**wanted: Any) -> set[str]:
        return {one["room_id"] for one in (await search(acts, filter=wanted))["chunk"]}

    assert await found(generic_search_term="cats") == {cats, space}
    assert await found(generic_search_term="FELINE") == {cats}
    assert await found(generic_search_term="0%") == {cats}
    assert await found(generic_search_term="_") == set()
    assert await found(room_types=["m.space"]) == {space}
    assert cats in await found(room_types=[None])
    assert space not in await found(room_types=[None])
    assert await found(room_types=[]) == set()
    assert len(await found(room_types=[None, "m.space"])) == 3


async def test_private_and_empty_rooms_are_not_shown(acts: Actions) -> None:
    shut = await listed_room(acts, "Shut", preset="private_chat")
    empty = await listed_room(acts, "Empty")
    await acts.world.leave(empty, ALICE)
    knock = await listed_room(
        acts,
        "Knock",
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}],
    )

    shown = await search(acts)

    assert [one["room_id"] for one in shown["chunk"]] == [knock]
    assert shut not in str(shown)


async def test_wrong_questions_to_the_list(acts: Actions) -> None:
    client = acts.client()
    path = f"{V3}/publicRooms"

    answers = [
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

    assert [verdict(one) for one in answers] == [
        (401, "M_MISSING_TOKEN"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (404, "M_NOT_FOUND"),
        (400, "M_BAD_JSON"),
        (400, "M_BAD_JSON"),
        (400, "M_BAD_JSON"),
        (200, None),
    ]
