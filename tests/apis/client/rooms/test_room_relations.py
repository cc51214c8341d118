"""Relations and threads over HTTP."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.reading import Reading, client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
from tests.support.web import Answer, WebClient


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


@pytest.fixture
def reading(world: World) -> Reading:
    return readers_of(world)


@pytest.fixture
def client(reading: Reading) -> WebClient:
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


async def relations(client: WebClient, room_id: RoomID, rest: str, **query: Any) -> Answer:
    return await client.get(
        f"/_matrix/client/v1/rooms/{room_id}/relations/{rest}", token=ALICE, query=query
    )


def ids(answer: Answer) -> list[str]:
    return [one["event_id"] for one in answer.json["chunk"]]


async def test_children_come_by_type_and_in_pages(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    replies = [await relate(world, room_id, root) for _ in range(5)]
    reaction = await relate(world, room_id, root, "m.annotation", event_type="m.reaction", key="+")

    everything = await relations(client, room_id, root)
    threaded = await relations(client, room_id, f"{root}/m.thread", limit=2)
    rest = await relations(
        client, room_id, f"{root}/m.thread", **{"from": threaded.json["next_batch"]}
    )
    reactions = await relations(client, room_id, f"{root}/m.annotation/m.reaction")
    none = await relations(client, room_id, f"{root}/m.annotation/m.room.message")
    forward = await relations(client, room_id, root, dir="f", limit=2)

    assert ids(everything) == [reaction, *replies[::-1]]
    assert "next_batch" not in everything.json
    assert ids(threaded) == replies[:2:-1]
    assert ids(rest) == replies[2::-1]
    assert ids(reactions) == [reaction]
    assert ids(none) == []
    assert ids(forward) == replies[:2]


async def test_recursion_follows_children_of_children(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    reply = await relate(world, room_id, root)
    reaction = await relate(world, room_id, reply, "m.annotation", key="+")

    answer = await relations(client, room_id, root, recurse="true")

    assert ids(answer) == [reaction, reply]
    assert answer.json["recursion_depth"] == 3


async def test_relations_of_unseen_events_are_refused(world: World, client: WebClient) -> None:
    room_id = await world.create_room(BOB)
    own = await world.create_room(ALICE)
    sent = await world.send(room_id, BOB)

    stranger = await relations(client, room_id, sent.event_id)
    elsewhere = await relations(client, own, sent.event_id)
    bad = await relations(client, own, sent.event_id, limit=0)

    assert (stranger.status, stranger.errcode) == (403, "M_FORBIDDEN")
    assert (elsewhere.status, elsewhere.errcode) == (404, "M_NOT_FOUND")
    assert bad.status in (400, 404)


async def test_threads_are_listed_by_their_last_reply(
    world: World, reading: Reading, client: WebClient
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
    reading.wishes.ignored[ALICE] = {BOB}
    ignoring = await client.get(path, token=ALICE, query={"limit": 1})
    bad = await client.get(path, token=ALICE, query={"from": "rubbish"})

    assert ids(first) == [roots[1], roots[0]]
    assert ids(rest) == [roots[2]]
    assert "next_batch" not in rest.json
    assert ids(own) == [roots[1], roots[0]]
    thread = first.json["chunk"][0]["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["current_user_participated"]) == (2, True)
    assert ignoring.json["chunk"][0]["content"] == {}
    assert (bad.status, bad.errcode) == (400, "M_INVALID_PARAM")


async def pages_of_threads(
    client: WebClient, room_id: RoomID, **query: Any
) -> list[list[dict[str, Any]]]:
    path = f"/_matrix/client/v1/rooms/{room_id}/threads"
    pages: list[list[dict[str, Any]]] = []
    start: str | None = None
    while start is not None or not pages:
        given = {**query, "from": start} if start is not None else query
        answer = await client.get(path, token=ALICE, query=given)
        assert answer.status == 200, answer.body
        pages.append(answer.json["chunk"])
        start = answer.json.get("next_batch")
    return pages


def in_thread(root: dict[str, Any]) -> tuple[int, str]:
    thread = root["unsigned"]["m.relations"]["m.thread"]
    return thread["count"], thread["latest_event"]["event_id"]


async def test_replies_of_ignored_users_make_no_thread(
    world: World, reading: Reading, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    spammed, moved, quiet, theirs = [
        (await world.send(room_id, user_id)).event_id for user_id in (ALICE, ALICE, ALICE, CAROL)
    ]
    kept = await relate(world, room_id, moved, sender=CAROL)
    last = await relate(world, room_id, quiet, sender=ALICE)
    for root in (spammed, moved, theirs):
        await relate(world, room_id, root, sender=BOB)
    reading.wishes.ignored[ALICE] = {BOB}

    pages = await pages_of_threads(client, room_id, limit=1)
    participated = await pages_of_threads(client, room_id, include="participated")
    reading.wishes.ignored[ALICE] = set()
    heard_again = await pages_of_threads(client, room_id)

    assert [[one["event_id"] for one in page] for page in pages] == [[quiet], [moved]]
    assert [in_thread(page[0]) for page in pages] == [(1, last), (1, kept)]
    assert participated == [pages[0] + pages[1]]
    assert [one["event_id"] for one in heard_again[0]] == [theirs, moved, spammed, quiet]


@pytest.mark.parametrize("seed", range(3))
async def test_threads_lie_where_their_last_reply_that_is_shown_does(
    world: World, reading: Reading, client: WebClient, seed: int
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
        reading.wishes.ignored[ALICE] = ignored
        shown = [root for root, sender in replies[::-1] if sender not in ignored]
        for limit in (1, 2, 4):
            pages = await pages_of_threads(client, room_id, limit=limit)
            listed = [one["event_id"] for page in pages for one in page]
            assert listed == list(dict.fromkeys(shown)), (seed, ignored, limit)
            assert all(pages)


async def test_what_happened_after_one_left_is_not_bundled(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    root = (await world.send(room_id, ALICE, "root")).event_id
    await relate(world, room_id, root)
    await world.leave(room_id, BOB)
    secret = await relate(world, room_id, root)
    path = f"/_matrix/client/v3/rooms/{room_id}/event/{root}"

    left = await client.get(path, token=BOB)
    there = await client.get(path, token=ALICE)

    assert "m.relations" not in left.json["unsigned"]
    thread = there.json["unsigned"]["m.relations"]["m.thread"]
    assert thread["latest_event"]["event_id"] == secret


async def test_a_redacted_root_keeps_its_thread(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    await relate(world, room_id, root)
    await world.redact(room_id, ALICE, root)

    answer = await client.get(f"/_matrix/client/v3/rooms/{room_id}/event/{root}", token=ALICE)

    assert answer.json["content"] == {}
    assert answer.json["unsigned"]["m.relations"]["m.thread"]["count"] == 1


async def test_edits_by_others_do_not_crowd_out_that_of_the_author(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = (await world.send(room_id, ALICE, "first")).event_id
    edit = await replace(world, room_id, sent, ALICE)
    for _ in range(12):
        await replace(world, room_id, sent, BOB)

    answer = await client.get(f"/_matrix/client/v3/rooms/{room_id}/event/{sent}", token=ALICE)

    assert answer.json["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit


async def test_the_last_of_many_edits_is_bundled(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    sent = (await world.send(room_id, ALICE, "first")).event_id
    referring, edits = [], []
    for _ in range(8):
        world.clock.advance(ms=1)
        referring.append(await relate(world, room_id, sent, "m.reference"))
        edits.append(await replace(world, room_id, sent, ALICE))

    answer = await client.get(f"/_matrix/client/v3/rooms/{room_id}/event/{sent}", token=ALICE)

    bundle = answer.json["unsigned"]["m.relations"]
    assert bundle["m.replace"]["event_id"] == edits[-1]
    assert bundle["m.reference"]["chunk"] == [{"event_id": one} for one in referring]
