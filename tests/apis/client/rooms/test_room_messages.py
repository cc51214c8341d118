"""Reading the history of rooms over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from hs.core.ids import RoomID, UserID
from hs.core.streams import EVENTS
from hs.core.tokens import SyncToken
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


def bodies(events: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["body"] for event in events if "body" in event["content"]]


async def messages(
    client: WebClient, room_id: RoomID, user_id: UserID = ALICE, /, **query: Any
) -> WebResponse:
    return await client.get(
        f"/_matrix/client/v3/rooms/{room_id}/messages", token=user_id, query=query
    )


async def send_messages(world: World, room_id: RoomID, *texts: str) -> None:
    for text in texts:
        await world.send(room_id, ALICE, text)


async def test_pagination_backwards_ends_at_create_without_gaps(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE)
    await send_messages(world, room_id, *map(str, range(10)))
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"dir": "b", "limit": 3}

    while True:
        page = (await messages(client, room_id, ALICE, **query)).json
        assert len(page["chunk"]) <= 3
        seen.extend(page["chunk"])
        if "end" not in page:
            break
        query["from"] = page["end"]

    assert [event["event_id"] for event in seen] == [
        row.event_id for _, row in reversed(world.seen)
    ]
    assert seen[-1]["type"] == "m.room.create"


async def test_pagination_forwards_covers_all_events(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    await send_messages(world, room_id, "a", "b", "c", "d")

    first = (await messages(client, room_id, dir="f", limit=6)).json
    second = (
        await messages(client, room_id, ALICE, **{"dir": "f", "limit": 6, "from": first["end"]})
    ).json

    assert bodies(first["chunk"]) == ["a", "b"]
    assert bodies(second["chunk"]) == ["c", "d"]
    assert second["start"] == first["end"]
    third = (
        await messages(client, room_id, ALICE, **{"dir": "f", "limit": 6, "from": second["end"]})
    ).json
    assert third["chunk"] == []
    assert "end" not in third


async def test_page_ends_at_the_to_token(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    await send_messages(world, room_id, "a", "b")
    middle = (await messages(client, room_id, dir="b", limit=1)).json["start"]
    await send_messages(world, room_id, "c", "d")

    page = (await messages(client, room_id, dir="b", limit=10, to=middle)).json

    assert bodies(page["chunk"]) == ["d", "c"]


async def test_sync_token_is_a_pagination_token(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    await send_messages(world, room_id, "a", "b")
    token = SyncToken(events=world.feed.position(EVENTS)).encode()
    await send_messages(world, room_id, "c", "d")

    backwards = (
        await messages(client, room_id, ALICE, **{"dir": "b", "limit": 2, "from": token})
    ).json
    forwards = (
        await messages(client, room_id, ALICE, **{"dir": "f", "limit": 2, "from": token})
    ).json

    assert bodies(backwards["chunk"]) == ["b", "a"]
    assert bodies(forwards["chunk"]) == ["c", "d"]


async def test_former_member_reads_up_to_their_leave(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await send_messages(world, room_id, "a")
    await world.leave(room_id, BOB)
    await send_messages(world, room_id, "b")

    page = (await messages(client, room_id, BOB, dir="b", limit=3)).json

    assert bodies(page["chunk"]) == ["a"]
    assert page["chunk"][0]["content"]["membership"] == "leave"


async def test_history_is_forbidden_to_strangers(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)

    response = await messages(client, room_id, BOB, dir="b")

    assert (response.status, response.errcode) == (403, "M_FORBIDDEN")
    unknown = await messages(client, RoomID("!unknown:test.example"), ALICE, dir="b")
    assert (unknown.status, unknown.errcode) == (403, "M_FORBIDDEN")


async def test_guest_reads_a_world_readable_room(world: World, reading: ReadingScene) -> None:
    client = client_of(reading, ALICE, guests=[BOB])
    room_id = await world.create_room(ALICE)
    await world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    await send_messages(world, room_id, "open")

    page = (await messages(client, room_id, BOB, dir="b", limit=2)).json
    members = await client.get(f"/_matrix/client/v3/rooms/{room_id}/joined_members", token=BOB)

    assert bodies(page["chunk"]) == ["open"]
    assert members.errcode == "M_GUEST_ACCESS_FORBIDDEN"


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"dir": "x"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "-1"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "many"}, "M_INVALID_PARAM"),
        ({"dir": "b", "from": "rubbish"}, "M_INVALID_PARAM"),
        ({"dir": "b", "to": "t1-"}, "M_INVALID_PARAM"),
        ({"dir": "b", "filter": "{"}, "M_NOT_JSON"),
        ({"dir": "b", "filter": '{"types": 1}'}, "M_BAD_JSON"),
    ],
)
async def test_invalid_query_is_rejected(
    world: World, client: WebClient, query: dict[str, str], errcode: str
) -> None:
    room_id = await world.create_room(ALICE)

    response = await messages(client, room_id, ALICE, **query)

    assert (response.status, response.errcode) == (400, errcode)


async def test_filter_searches_further_until_the_page_is_full(
    world: World, client: WebClient
) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.send(room_id, BOB, "wanted")
    await send_messages(world, room_id, *map(str, range(30)))
    event_filter = {"senders": [BOB], "types": ["m.room.message"], "lazy_load_members": True}

    page = (
        await messages(
            client, room_id, dir="b", limit=1, filter=orjson.dumps(event_filter).decode()
        )
    ).json

    assert bodies(page["chunk"]) == ["wanted"]
    assert [event["state_key"] for event in page["state"]] == [BOB]
    assert page["state"][0]["room_id"] == room_id


async def test_filter_by_relations(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    root = await world.send(room_id, ALICE, "root")
    await world.send(room_id, ALICE, "alone")
    relation = {"rel_type": "m.thread", "event_id": root.event_id}
    reply = {"msgtype": "m.text", "body": "reply", "m.relates_to": relation}
    await world.append(room_id, Draft("m.room.message", BOB, reply))

    async def bodies_with(event_filter: dict[str, Any]) -> list[str]:
        text = orjson.dumps(event_filter).decode()
        return bodies((await messages(client, room_id, dir="b", filter=text)).json["chunk"])

    assert await bodies_with({"related_by_rel_types": ["m.thread"]}) == ["root"]
    assert await bodies_with({"related_by_senders": [BOB]}) == ["root"]
    assert await bodies_with({"related_by_senders": [ALICE]}) == []


async def test_context_has_events_on_both_sides_and_tokens(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    await send_messages(world, room_id, "a", "b", "c")
    anchor = await world.send(room_id, ALICE, "here")
    await send_messages(world, room_id, "d", "e", "f")

    context = (
        await client.get(
            f"/_matrix/client/v3/rooms/{room_id}/context/{anchor.event_id}",
            token=ALICE,
            query={"limit": 4},
        )
    ).json
    backwards = await messages(
        client, room_id, ALICE, **{"dir": "b", "limit": 1, "from": context["start"]}
    )
    forwards = await messages(
        client, room_id, ALICE, **{"dir": "f", "limit": 1, "from": context["end"]}
    )

    assert context["event"]["event_id"] == anchor.event_id
    assert bodies(context["events_before"]) == ["c", "b"]
    assert bodies(context["events_after"]) == ["d", "e"]
    assert {event["type"] for event in context["state"]} >= {"m.room.create", "m.room.member"}
    assert bodies(backwards.json["chunk"]) == ["a"]
    assert bodies(forwards.json["chunk"]) == ["f"]


async def test_invisible_event_is_not_found(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    other_room = await world.create_room(ALICE)
    sent = await world.send(room_id, ALICE, "secret")
    base = "/_matrix/client/v3"

    own = await client.get(f"{base}/rooms/{room_id}/event/{sent.event_id}", token=ALICE)
    legacy = await client.get(f"{base}/events/{sent.event_id}", token=ALICE)
    rejected = [
        await client.get(f"{base}/rooms/{room_id}/event/{sent.event_id}", token=BOB),
        await client.get(f"{base}/rooms/{other_room}/event/{sent.event_id}", token=ALICE),
        await client.get(f"{base}/rooms/{room_id}/event/$unknown", token=ALICE),
        await client.get(f"{base}/rooms/{other_room}/context/{sent.event_id}", token=ALICE),
        await client.get(f"{base}/events/{sent.event_id}", token=BOB),
    ]

    assert own.json == legacy.json
    assert own.json["content"]["body"] == "secret"
    assert [(response.status, response.errcode) for response in rejected] == [
        (404, "M_NOT_FOUND")
    ] * 5


async def test_closest_event_to_a_timestamp_is_found(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE)
    sent = []
    for _ in range(5):
        world.clock.advance(1000)
        sent.append((await world.send(room_id, ALICE), world.clock.now_ms()))
    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"

    async def closest(ts: int, direction: str) -> WebResponse:
        return await client.get(path, token=ALICE, query={"ts": ts, "dir": direction})

    (third, time) = sent[2]
    assert (await closest(time - 1, "f")).json == {
        "event_id": third.event_id,
        "origin_server_ts": time,
    }
    assert (await closest(time + 1, "b")).json["event_id"] == third.event_id
    assert (await closest(time, "b")).json["event_id"] == third.event_id
    assert (await closest(sent[-1][1] + 1, "f")).errcode == "M_NOT_FOUND"
    assert (await closest(0, "b")).status == 404


async def test_hidden_events_are_skipped_near_a_timestamp(world: World, client: WebClient) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    world.clock.advance(1000)
    last_seen = await world.leave(room_id, BOB)
    for n in range(120):
        world.clock.advance(1000)
        await send_messages(world, room_id, f"hidden {n}")
    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"
    now_ms = world.clock.now_ms()

    response = await client.get(path, token=BOB, query={"ts": now_ms, "dir": "b"})
    nothing = await client.get(path, token=BOB, query={"ts": now_ms - 119_000, "dir": "f"})

    assert response.json["event_id"] == last_seen.event_id
    assert nothing.status == 404


async def test_first_visible_event_after_a_timestamp_is_found(
    world: World, client: WebClient
) -> None:
    joined_only = Draft("m.room.history_visibility", ALICE, {"history_visibility": "joined"}, "")
    room_id = await world.create_room(ALICE, state=[joined_only])
    world.clock.advance(1000)
    joined_after_ms = world.clock.now_ms()
    await send_messages(world, room_id, *(f"hidden {n}" for n in range(120)))
    joined = await world.join(room_id, BOB)
    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"

    response = await client.get(path, token=BOB, query={"ts": joined_after_ms, "dir": "f"})

    assert response.json["event_id"] == joined.event_id
