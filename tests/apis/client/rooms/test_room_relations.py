"""Relations and threads over HTTP."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.reading import ReadingScene, client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
from tests.support.web import WebClient, WebResponse


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


@pytest.fixture
def reading(world: World) -> ReadingScene:
    return readers_of(world)


@pytest.fixture
def client(reading: ReadingScene) -> WebClient:
    return client_of(reading, ALICE, BOB, CAROL)


async def relate(
    world: World,
    room_id: RoomID,
    parent: EventID,
    rel_type: str = "m.thread",
    sender: UserID = ALICE,
    event_type: str = "m.room.message",
    **relation: Any,
) -> EventID:
    relates_to = {"rel_type": rel_type, "event_id": parent, **relation}
    content = {"body": "child", "msgtype": "m.text", "m.relates_to": relates_to}
    (appended,) = await world.append(room_id, Draft(event_type, sender, content))
    return appended.event_id


async def replace(world: World, room_id: RoomID, parent: EventID, sender: UserID) -> EventID:
    content = {
        "body": "* new",
        "msgtype": "m.text",
        "m.new_content": {"body": "new", "msgtype": "m.text"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": parent},
    }
    (appended,) = await world.append(room_id, Draft("m.room.message", sender, content))
    return appended.event_id


async def relations(client: WebClient, room_id: RoomID, rest: str, **query: Any) -> WebResponse:
    return await client.get(
        f"/_matrix/client/v1/rooms/{room_id}/relations/{rest}", token=ALICE, query=query
    )


def ids(response: WebResponse) -> list[str]:
    return [response["event_id"] for response in response.json["chunk"]]


async def test_relations_are_filtered_by_type_and_paginated(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    replies = [await relate(world, room_id, root) for _ in range(5)]
    reaction = await relate(world, room_id, root, "m.annotation", event_type="m.reaction", key="+")

    all_relations = await relations(client, room_id, root)
    threaded = await relations(client, room_id, f"{root}/m.thread", limit=2)
    rest = await relations(
        client, room_id, f"{root}/m.thread", **{"from": threaded.json["next_batch"]}
    )
    reactions = await relations(client, room_id, f"{root}/m.annotation/m.reaction")
    none = await relations(client, room_id, f"{root}/m.annotation/m.room.message")
    forward = await relations(client, room_id, root, dir="f", limit=2)

    assert ids(all_relations) == [reaction, *replies[::-1]]
    assert "next_batch" not in all_relations.json
    assert ids(threaded) == replies[:2:-1]
    assert ids(rest) == replies[2::-1]
    assert ids(reactions) == [reaction]
    assert ids(none) == []
    assert ids(forward) == replies[:2]


async def test_recursive_relations_include_indirect_ones(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    reply = await relate(world, room_id, root)
    reaction = await relate(world, room_id, reply, "m.annotation", key="+")

    response = await relations(client, room_id, root, recurse="true")

    assert ids(response) == [reaction, reply]
    assert response.json["recursion_depth"] == 3


async def test_relations_of_invisible_events_are_rejected(world: World, client: WebClient) -> None:
    room_id = await world.create_room(BOB)
    own = await world.create_room(ALICE)
    sent = await world.send(room_id, BOB)

    stranger = await relations(client, room_id, sent.event_id)
    elsewhere = await relations(client, own, sent.event_id)
    invalid = await relations(client, own, sent.event_id, limit=0)

    assert (stranger.status, stranger.errcode) == (403, "M_FORBIDDEN")
    assert (elsewhere.status, elsewhere.errcode) == (404, "M_NOT_FOUND")
    assert invalid.status in (400, 404)


async def test_threads_are_ordered_by_their_latest_reply(
    world: World, reading: ReadingScene, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    roots = [(await world.send(room_id, user_id)).event_id for user_id in (ALICE, BOB, CAROL)]
    for root in (roots[0], roots[1], roots[2], roots[0]):
        await relate(world, room_id, root, sender=CAROL)
    await relate(world, room_id, roots[1], sender=ALICE)
    path = f"/_matrix/client/v1/rooms/{room_id}/threads"

    first = await client.get(path, token=ALICE, query={"limit": 2})
    rest = await client.get(path, token=ALICE, query={"from": first.json["next_batch"]})
    own = await client.get(path, token=ALICE, query={"include": "participated"})
    await reading.ignore(ALICE, BOB)
    ignoring = await client.get(path, token=ALICE, query={"limit": 1})
    invalid = await client.get(path, token=ALICE, query={"from": "rubbish"})

    assert ids(first) == [roots[1], roots[0]]
    assert ids(rest) == [roots[2]]
    assert "next_batch" not in rest.json
    assert ids(own) == [roots[1], roots[0]]
    thread = first.json["chunk"][0]["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["current_user_participated"]) == (2, True)
    assert ignoring.json["chunk"][0]["content"] == {}
    assert (invalid.status, invalid.errcode) == (400, "M_INVALID_PARAM")


async def thread_pages(
    client: WebClient, room_id: RoomID, **query: Any
) -> list[list[dict[str, Any]]]:
    path = f"/_matrix/client/v1/rooms/{room_id}/threads"
    pages: list[list[dict[str, Any]]] = []
    start: str | None = None
    while start is not None or not pages:
        page_query = {**query, "from": start} if start is not None else query
        response = await client.get(path, token=ALICE, query=page_query)
        assert response.status == 200, response.body
        pages.append(response.json["chunk"])
        start = response.json.get("next_batch")
    return pages


def thread_summary(root: dict[str, Any]) -> tuple[int, str]:
    thread = root["unsigned"]["m.relations"]["m.thread"]
    return thread["count"], thread["latest_event"]["event_id"]


async def test_replies_of_ignored_users_are_not_counted(
    world: World, reading: ReadingScene, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    spammed, moved, quiet, of_carol = [
        (await world.send(room_id, user_id)).event_id for user_id in (ALICE, ALICE, ALICE, CAROL)
    ]
    visible = await relate(world, room_id, moved, sender=CAROL)
    last = await relate(world, room_id, quiet, sender=ALICE)
    for root in (spammed, moved, of_carol):
        await relate(world, room_id, root, sender=BOB)
    await reading.ignore(ALICE, BOB)

    pages = await thread_pages(client, room_id, limit=1)
    participated = await thread_pages(client, room_id, include="participated")
    await reading.ignore(ALICE)
    not_ignoring = await thread_pages(client, room_id)

    assert [[root["event_id"] for root in page] for page in pages] == [[quiet], [moved]]
    assert [thread_summary(page[0]) for page in pages] == [(1, last), (1, visible)]
    assert participated == [pages[0] + pages[1]]
    assert [root["event_id"] for root in not_ignoring[0]] == [of_carol, moved, spammed, quiet]


@pytest.mark.parametrize("seed", range(3))
async def test_threads_are_ordered_by_their_latest_visible_reply(
    world: World, reading: ReadingScene, client: WebClient, seed: int
) -> None:
    random = Random(seed)
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    roots = [(await world.send(room_id, ALICE)).event_id for _ in range(6)]
    replies: list[tuple[EventID, UserID]] = []
    for _ in range(16):
        root, sender = random.choice(roots), random.choice((ALICE, BOB, BOB, CAROL))
        await relate(world, room_id, root, sender=sender)
        replies.append((root, sender))

    for ignored in ({BOB}, {CAROL}, {BOB, CAROL}):
        await reading.ignore(ALICE, *ignored)
        visible_roots = [root for root, sender in replies[::-1] if sender not in ignored]
        for limit in (1, 2, 4):
            pages = await thread_pages(client, room_id, limit=limit)
            listed = [root["event_id"] for page in pages for root in page]
            assert listed == list(dict.fromkeys(visible_roots)), (seed, ignored, limit)
            assert all(pages)


async def test_replies_after_the_leave_are_not_bundled(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    root = (await world.send(room_id, ALICE, "root")).event_id
    await relate(world, room_id, root)
    await world.leave(room_id, BOB)
    secret = await relate(world, room_id, root)
    path = f"/_matrix/client/v3/rooms/{room_id}/event/{root}"

    for_bob = await client.get(path, token=BOB)
    for_alice = await client.get(path, token=ALICE)

    assert "m.relations" not in for_bob.json["unsigned"]
    thread = for_alice.json["unsigned"]["m.relations"]["m.thread"]
    assert thread["latest_event"]["event_id"] == secret


async def test_redacted_root_keeps_its_thread(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    await relate(world, room_id, root)
    await world.redact(room_id, ALICE, root)

    response = await client.get(f"/_matrix/client/v3/rooms/{room_id}/event/{root}", token=ALICE)

    assert response.json["content"] == {}
    assert response.json["unsigned"]["m.relations"]["m.thread"]["count"] == 1


async def test_edits_by_other_users_do_not_hide_the_edit_of_the_sender(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = (await world.send(room_id, ALICE, "first")).event_id
    edit = await replace(world, room_id, sent, ALICE)
    for _ in range(12):
        await replace(world, room_id, sent, BOB)

    response = await client.get(f"/_matrix/client/v3/rooms/{room_id}/event/{sent}", token=ALICE)

    assert response.json["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit


async def test_latest_edit_is_bundled(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    sent = (await world.send(room_id, ALICE, "first")).event_id
    references, edits = [], []
    for _ in range(8):
        world.clock.advance(ms=1)
        references.append(await relate(world, room_id, sent, "m.reference"))
        edits.append(await replace(world, room_id, sent, ALICE))

    response = await client.get(f"/_matrix/client/v3/rooms/{room_id}/event/{sent}", token=ALICE)

    bundle = response.json["unsigned"]["m.relations"]
    assert bundle["m.replace"]["event_id"] == edits[-1]
    assert bundle["m.reference"]["chunk"] == [{"event_id": event_id} for event_id in references]
