"""/events and /initialSync, over HTTP."""

from collections.abc import AsyncIterator

import attrs
import pytest
import trio.testing

from hs.apis.client.sync.deprecated_sync import OldSyncApi
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.limits.appservice_users import NoAppservices
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.pagination import Places
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.read.room_state import RoomState
from hs.services.rooms.read.timelines import Timelines
from hs.services.sync.assembly import RoomReaders, Sources, make_old_sync
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, World
from tests.support.syncing import PresenceTable, Syncing, open_syncing
from tests.support.web import Answer, Tokens, WebClient, client_for

EVENTS = "/_matrix/client/v3/events"
EVERYTHING = "/_matrix/client/v3/initialSync"


@attrs.frozen
class Old:
    """A server that answers old clients; a user's token is the user ID."""

    s: Syncing
    client: WebClient

    @property
    def world(self) -> World:
        return self.s.world

    async def events(self, user_id: UserID, start: str | None = None, **more: object) -> Answer:
        query = {"timeout": 0, **({} if start is None else {"from": start}), **more}
        return await self.client.get(EVENTS, token=user_id, query=query)


@pytest.fixture
async def old(database: Database) -> AsyncIterator[Old]:
    async with open_syncing(database) as s:
        world, reading, tables = s.world, s.reading, s.tables
        showing, places = Showing(reading.visibility, reading.rendering), Places(world.database)
        core = (world.database, world.events, world.states)
        timelines = Timelines(*core, reading.visibility, showing, places)
        state = RoomState(
            *core, reading.memberships, reading.visibility, showing, places, NoAppservices()
        )
        readers = RoomReaders(
            world.database,
            world.feed,
            world.events,
            world.states,
            reading.memberships,
            reading.tails,
            reading.rendering,
            reading.visibility,
        )
        sources = Sources(tables, tables, tables, tables, tables, PresenceTable(tables), tables)
        snapshots = RoomSnapshots(world.database, reading.visibility, timelines, showing, state)
        made = make_old_sync(readers, sources, s.notifier, s.service, snapshots)
        tokens = Tokens()
        for user_id in (ALICE, BOB, CAROL):
            tokens.requesters[user_id] = Requester(user_id, "PHONE", 1, is_guest=user_id == CAROL)
        yield Old(s, client_for(OldSyncApi(made.stream, made.initial), tokens=tokens))


def told(answer: Answer) -> list[str]:
    """Give what an answer tells, in short."""
    return [
        one["content"].get("body") or one["content"].get("membership") or one["type"]
        for one in answer.json["chunk"]
    ]


async def test_events_go_on_where_the_last_answer_ended(old: Old) -> None:
    room_id = await old.world.create_room(ALICE, join=[BOB])
    first = await old.events(BOB)
    await old.world.send(room_id, ALICE, "a")

    second = await old.events(BOB, first.json["end"])
    third = await old.events(BOB, second.json["end"])

    assert first.json == {"start": first.json["end"], "end": first.json["end"], "chunk": []}
    assert second.json["start"] == first.json["end"]
    assert [(one["room_id"], one["content"]["body"]) for one in second.json["chunk"]] == [
        (room_id, "a")
    ]
    assert told(third) == []


async def test_a_long_answer_is_cut_and_continued(old: Old) -> None:
    one, two = await old.world.create_room(BOB), await old.world.create_room(BOB)
    end = (await old.events(BOB)).json["end"]
    for number in range(4):
        await old.world.send(one, BOB, f"a{number}")
        await old.world.send(two, BOB, f"b{number}")

    seen = []
    for _ in range(4):
        answer = await old.events(BOB, end, limit=3)
        seen.append(told(answer))
        end = answer.json["end"]

    assert seen == [["a0", "b0", "a1"], ["b1", "a2", "b2"], ["a3", "b3"], []]


async def test_users_are_told_of_their_invites_joins_and_departures(old: Old) -> None:
    room_id = await old.world.create_room(ALICE, state=[])
    end = (await old.events(BOB)).json["end"]

    seen = []
    for membership in ("invite", "join", "leave"):
        if membership == "invite":
            await old.world.set_membership(room_id, ALICE, BOB, "invite")
        elif membership == "join":
            await old.world.join(room_id, BOB)
        else:
            await old.world.leave(room_id, BOB)
            await old.world.send(room_id, ALICE, "nobody here?")
        answer = await old.events(BOB, end)
        seen.append(told(answer))
        end = answer.json["end"]

    assert seen == [["invite"], ["join"], ["leave"]]


async def test_events_waits_for_something_to_happen(old: Old) -> None:
    room_id = await old.world.create_room(ALICE, join=[BOB])
    end = (await old.events(BOB)).json["end"]
    answers = []

    async def ask() -> None:
        answers.append(await old.events(BOB, end, timeout=60_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await old.world.send(room_id, ALICE, "at last")

    assert told(answers[0]) == ["at last"]


async def test_presence_receipts_and_account_data_are_told(old: Old) -> None:
    room_id = await old.world.create_room(ALICE, join=[BOB])
    sent = await old.world.send(room_id, ALICE, "a")
    end = (await old.events(BOB)).json["end"]
    old.s.tables.read_up_to(room_id, ALICE, sent.event_id)
    old.s.tables.set_account_data(BOB, "m.tag", {"tags": {}}, room_id)
    old.s.tables.set_presence(ALICE, "online")

    answer = await old.events(BOB, end)

    assert [(one.get("room_id"), one["type"]) for one in answer.json["chunk"]] == [
        (None, "m.presence"),
        (room_id, "m.receipt"),
        (room_id, "m.tag"),
    ]


async def test_guests_look_into_readable_rooms_alone(old: Old) -> None:
    closed = await old.world.create_room(ALICE)
    room_id = await old.world.create_room(ALICE)
    visibility = {"history_visibility": "world_readable"}
    await old.world.set_state(room_id, ALICE, "m.room.history_visibility", visibility)
    start = (await old.events(CAROL, room_id=room_id)).json["end"]
    answers = []

    async def ask() -> None:
        answers.append(await old.events(CAROL, start, room_id=room_id, timeout=60_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await old.world.send(room_id, ALICE, "hello out there")

    assert told(answers[0]) == ["hello out there"]
    assert (await old.events(CAROL, room_id=closed)).status == 403
    assert (await old.events(CAROL)).errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_initial_sync_gives_rooms_invites_and_departed_rooms_if_asked(old: Old) -> None:
    own = await old.world.create_room(BOB)
    await old.world.send(own, BOB, "mine")
    invited = await old.world.create_room(ALICE, invite=[BOB])
    departed = await old.world.create_room(ALICE, join=[BOB])
    await old.world.leave(departed, BOB)

    short = await old.client.get(EVERYTHING, token=BOB, query={"limit": 1})
    long = await old.client.get(EVERYTHING, token=BOB, query={"limit": 1, "archived": "true"})

    rooms = {one["room_id"]: one for one in short.json["rooms"]}
    assert {key: one["membership"] for key, one in rooms.items()} == {
        own: "join",
        invited: "invite",
    }
    assert [one["content"]["body"] for one in rooms[own]["messages"]["chunk"]] == ["mine"]
    assert rooms[own]["messages"]["end"] == short.json["end"]
    assert rooms[invited]["inviter"] == ALICE
    assert rooms[invited]["invite"]["content"]["membership"] == "invite"
    assert {one["room_id"]: one["membership"] for one in long.json["rooms"]}[departed] == "leave"


async def test_a_room_at_a_glance(old: Old) -> None:
    room_id = await old.world.create_room(ALICE)
    for body in ("a", "b"):
        await old.world.send(room_id, ALICE, body)

    answer = await old.client.get(
        f"/_matrix/client/v3/rooms/{room_id}/initialSync", token=ALICE, query={"limit": 2}
    )

    room = answer.json
    assert (room["membership"], room["visibility"]) == ("join", "private")
    assert [one["content"]["body"] for one in room["messages"]["chunk"]] == ["a", "b"]
    assert "start" in room["messages"]
    assert len(room["state"]) == 4
    assert told(await old.events(ALICE, room["messages"]["end"])) == []
