"""/events and /initialSync over HTTP."""

from collections.abc import AsyncIterator

import attrs
import pytest
import trio.testing

from hs.core.ids import UserID
from hs.storage.database import Database
from tests.support.reading import client_of
from tests.support.rooms import ALICE, BOB, CAROL, World
from tests.support.syncing import Syncing, open_syncing
from tests.support.web import WebClient, WebResponse

EVENTS = "/_matrix/client/v3/events"
INITIAL_SYNC = "/_matrix/client/v3/initialSync"


@attrs.frozen
class DeprecatedSync:
    """A server with the deprecated endpoints; the token of a user is the user ID."""

    syncing: Syncing
    client: WebClient

    @property
    def world(self) -> World:
        return self.syncing.world

    async def events(
        self, user_id: UserID, start: str | None = None, **more: object
    ) -> WebResponse:
        query = {"timeout": 0, **({} if start is None else {"from": start}), **more}
        return await self.client.get(EVENTS, token=user_id, query=query)


@pytest.fixture
async def deprecated(database: Database) -> AsyncIterator[DeprecatedSync]:
    async with open_syncing(database) as s:
        client = client_of(s.reading, ALICE, BOB, guests=[CAROL])
        yield DeprecatedSync(s, client)


def summaries(response: WebResponse) -> list[str]:
    """Return a summary of each event in a response."""
    return [
        event["content"].get("body") or event["content"].get("membership") or event["type"]
        for event in response.json["chunk"]
    ]


async def test_events_continue_from_the_end_token(deprecated: DeprecatedSync) -> None:
    room_id = await deprecated.world.create_room(ALICE, join=[BOB])
    first = await deprecated.events(BOB)
    await deprecated.world.send(room_id, ALICE, "a")

    second = await deprecated.events(BOB, first.json["end"])
    third = await deprecated.events(BOB, second.json["end"])

    assert first.json == {"start": first.json["end"], "end": first.json["end"], "chunk": []}
    assert second.json["start"] == first.json["end"]
    assert [(event["room_id"], event["content"]["body"]) for event in second.json["chunk"]] == [
        (room_id, "a")
    ]
    assert summaries(third) == []


async def test_events_are_limited_and_continued(deprecated: DeprecatedSync) -> None:
    first, second = await deprecated.world.create_room(BOB), await deprecated.world.create_room(BOB)
    end = (await deprecated.events(BOB)).json["end"]
    for number in range(4):
        await deprecated.world.send(first, BOB, f"a{number}")
        await deprecated.world.send(second, BOB, f"b{number}")

    received = []
    for _ in range(4):
        response = await deprecated.events(BOB, end, limit=3)
        received.append(summaries(response))
        end = response.json["end"]

    assert received == [["a0", "b0", "a1"], ["b1", "a2", "b2"], ["a3", "b3"], []]


async def test_events_include_own_invite_join_and_leave(deprecated: DeprecatedSync) -> None:
    room_id = await deprecated.world.create_room(ALICE, state=[])
    end = (await deprecated.events(BOB)).json["end"]

    received = []
    for membership in ("invite", "join", "leave"):
        if membership == "invite":
            await deprecated.world.set_membership(room_id, ALICE, BOB, "invite")
        elif membership == "join":
            await deprecated.world.join(room_id, BOB)
        else:
            await deprecated.world.leave(room_id, BOB)
            await deprecated.world.send(room_id, ALICE, "nobody here?")
        response = await deprecated.events(BOB, end)
        received.append(summaries(response))
        end = response.json["end"]

    assert received == [["invite"], ["join"], ["leave"]]


async def test_events_waits_for_a_new_event(deprecated: DeprecatedSync) -> None:
    room_id = await deprecated.world.create_room(ALICE, join=[BOB])
    end = (await deprecated.events(BOB)).json["end"]
    responses = []

    async def poll() -> None:
        responses.append(await deprecated.events(BOB, end, timeout=60_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await deprecated.world.send(room_id, ALICE, "at last")

    assert summaries(responses[0]) == ["at last"]


async def test_events_include_presence_receipts_and_account_data(
    deprecated: DeprecatedSync,
) -> None:
    room_id = await deprecated.world.create_room(ALICE, join=[BOB])
    sent = await deprecated.world.send(room_id, ALICE, "a")
    end = (await deprecated.events(BOB)).json["end"]
    await deprecated.syncing.read_up_to(room_id, ALICE, sent.event_id)
    await deprecated.syncing.set_account_data(BOB, "m.tag", {"tags": {}}, room_id)
    await deprecated.syncing.set_presence(ALICE, "online")

    response = await deprecated.events(BOB, end)

    assert [(event.get("room_id"), event["type"]) for event in response.json["chunk"]] == [
        (None, "m.presence"),
        (room_id, "m.receipt"),
        (room_id, "m.tag"),
    ]


async def test_guest_gets_events_only_of_world_readable_rooms(deprecated: DeprecatedSync) -> None:
    private = await deprecated.world.create_room(ALICE)
    room_id = await deprecated.world.create_room(ALICE)
    visibility = {"history_visibility": "world_readable"}
    await deprecated.world.set_state(room_id, ALICE, "m.room.history_visibility", visibility)
    start = (await deprecated.events(CAROL, room_id=room_id)).json["end"]
    responses = []

    async def poll() -> None:
        responses.append(await deprecated.events(CAROL, start, room_id=room_id, timeout=60_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await deprecated.world.send(room_id, ALICE, "hello out there")

    assert summaries(responses[0]) == ["hello out there"]
    assert (await deprecated.events(CAROL, room_id=private)).status == 403
    assert (await deprecated.events(CAROL)).errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_initial_sync_has_joined_invited_and_optionally_left_rooms(
    deprecated: DeprecatedSync,
) -> None:
    joined = await deprecated.world.create_room(BOB)
    await deprecated.world.send(joined, BOB, "mine")
    invited = await deprecated.world.create_room(ALICE, invite=[BOB])
    left = await deprecated.world.create_room(ALICE, join=[BOB])
    await deprecated.world.leave(left, BOB)

    without_left = await deprecated.client.get(INITIAL_SYNC, token=BOB, query={"limit": 1})
    with_left = await deprecated.client.get(
        INITIAL_SYNC, token=BOB, query={"limit": 1, "archived": "true"}
    )

    rooms = {room["room_id"]: room for room in without_left.json["rooms"]}
    assert {key: room["membership"] for key, room in rooms.items()} == {
        joined: "join",
        invited: "invite",
    }
    assert [event["content"]["body"] for event in rooms[joined]["messages"]["chunk"]] == ["mine"]
    assert rooms[joined]["messages"]["end"] == without_left.json["end"]
    assert rooms[invited]["inviter"] == ALICE
    assert rooms[invited]["invite"]["content"]["membership"] == "invite"
    assert {room["room_id"]: room["membership"] for room in with_left.json["rooms"]}[
        left
    ] == "leave"


async def test_room_initial_sync(deprecated: DeprecatedSync) -> None:
    room_id = await deprecated.world.create_room(ALICE)
    for body in ("a", "b"):
        await deprecated.world.send(room_id, ALICE, body)

    response = await deprecated.client.get(
        f"/_matrix/client/v3/rooms/{room_id}/initialSync", token=ALICE, query={"limit": 2}
    )

    room = response.json
    assert (room["membership"], room["visibility"]) == ("join", "private")
    assert [event["content"]["body"] for event in room["messages"]["chunk"]] == ["a", "b"]
    assert "start" in room["messages"]
    assert len(room["state"]) == 4
    assert summaries(await deprecated.events(ALICE, room["messages"]["end"])) == []
