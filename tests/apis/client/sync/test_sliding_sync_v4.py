"""Sliding sync at its stable path, with the names and rules of the accepted MSC."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from hs.core.ids import RoomID, UserID
from hs.storage.database import Database
from tests.support.reading import client_of
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding, bodies, busy_rooms, open_sliding
from tests.support.web import WebClient

PATH = "/_matrix/client/v4/sync"
ROOM_NAME = {"include": [{"type": "m.room.name", "state_key": ""}]}


@attrs.frozen(eq=False)
class SlidingV4:
    """Sliding sync, and alice's client of its endpoint."""

    sliding: Sliding
    client: WebClient

    async def sync(
        self,
        pos: str | None = None,
        state: Any = ROOM_NAME,
        status: int = 200,
        rooms: Any = None,
        **list_arguments: Any,
    ) -> Any:
        sliding_list = {
            "timeline_limit": 5,
            "required_state": state,
            "range": [0, 9],
            **list_arguments,
        }
        body: dict[str, Any] = {"lists": {"all": sliding_list}, "room_subscriptions": rooms or {}}
        if pos is not None:
            body |= {"pos": pos, "timeout": 0}
        response = await self.client.post(PATH, body, token=ALICE)
        assert response.status == status, response.json
        return response.json


@pytest.fixture
async def sliding_v4(database: Database) -> AsyncIterator[SlidingV4]:
    async with open_sliding(database) as sliding:
        yield SlidingV4(sliding, client_of(sliding.reading, ALICE))


async def test_rooms_have_their_lists_and_no_notification_counts(sliding_v4: SlidingV4) -> None:
    [subscribed, listed] = await busy_rooms(sliding_v4.sliding.world, ALICE, 2)
    subscriptions = {subscribed: {"timeline_limit": 1, "required_state": {}}}

    response = await sliding_v4.sync(rooms=subscriptions, range=[0, 0])

    assert response["lists"] == {"all": {"count": 2}}
    assert response["rooms"][listed]["lists"] == ["all"]
    assert "lists" not in response["rooms"][subscribed]
    assert {room["membership"] for room in response["rooms"].values()} == {"join"}
    assert not any("notification_count" in room for room in response["rooms"].values())


async def test_invite_has_stripped_state(sliding_v4: SlidingV4) -> None:
    room_id = await sliding_v4.sliding.world.create_room(BOB, invite=[ALICE])

    invites = await sliding_v4.sync(filters={"is_invited": True})
    other_rooms = await sliding_v4.sync(filters={"is_invited": False})

    room = invites["rooms"][room_id]
    assert room["membership"] == "invite"
    assert room["stripped_state"][-1]["state_key"] == ALICE
    assert "invite_state" not in room
    assert other_rooms["rooms"] == {}


@pytest.mark.parametrize("ended_by", [ALICE, BOB])
@pytest.mark.parametrize("begun_by", [ALICE, BOB])
async def test_end_of_an_invite_or_knock_has_stripped_state(
    sliding_v4: SlidingV4, ended_by: UserID, begun_by: UserID
) -> None:
    world = sliding_v4.sliding.world
    room_id = await world.create_room(BOB, join_rule="knock")
    await world.set_state(room_id, BOB, "m.room.name", {"name": "Den"})
    membership = "invite" if begun_by == BOB else "knock"
    await world.set_membership(room_id, begun_by, ALICE, membership)
    first = await sliding_v4.sync()
    await world.set_state(room_id, BOB, "m.room.name", {"name": "not hers to see"})
    await world.set_membership(room_id, ended_by, ALICE, "leave")

    second = await sliding_v4.sync(first["pos"])

    [(returned_room_id, room)] = second["rooms"].items()
    assert returned_room_id == room_id
    assert room.keys() == {"membership", "stripped_state", "bump_stamp", "lists"}
    assert (room["membership"], room["lists"]) == ("leave", ["all"])
    *before, last = first["rooms"][room_id]["stripped_state"]
    assert last["content"] == {"membership": membership}
    left = {"type": "m.room.member", "state_key": ALICE, "sender": ended_by}
    assert room["stripped_state"] == [*before, {**left, "content": {"membership": "leave"}}]
    assert (await sliding_v4.sync(second["pos"]))["rooms"] == {}


async def test_left_room_has_no_stripped_state(sliding_v4: SlidingV4) -> None:
    world = sliding_v4.sliding.world
    room_id = await world.create_room(BOB, join=[ALICE])
    first = await sliding_v4.sync()
    await world.leave(room_id, ALICE)
    second = await sliding_v4.sync(first["pos"])
    invited = await world.create_room(BOB, invite=[CAROL, ALICE])
    third = await sliding_v4.sync(second["pos"])
    await world.join(invited, ALICE)
    await world.leave(invited, ALICE)

    fourth = await sliding_v4.sync(third["pos"])

    for room in (second["rooms"][room_id], fourth["rooms"][invited]):
        assert room["membership"] == "leave"
        assert room["timeline"][-1]["content"] == {"membership": "leave"}
        assert "stripped_state" not in room


async def test_rooms_are_ordered_by_their_latest_event_of_any_type(sliding_v4: SlidingV4) -> None:
    world = sliding_v4.sliding.world
    rooms = await busy_rooms(world, ALICE, 3)
    first = await sliding_v4.sync(range=[0, 0])
    await world.set_state(rooms[0], ALICE, "org.example.quiet", {})

    second = await sliding_v4.sync(first["pos"], range=[0, 0])

    assert list(first["rooms"]) == [rooms[2]]
    assert list(second["rooms"]) == [rooms[0]]


async def test_excluded_state_is_not_returned(sliding_v4: SlidingV4) -> None:
    world = sliding_v4.sliding.world
    room_id = await world.create_room(ALICE, join=[BOB])
    state = {
        "include": [{}],
        "exclude": [{"type": "m.room.create", "state_key": ""}, {"type": "m.room.member"}],
    }

    first = await sliding_v4.sync(state=state)
    await world.leave(room_id, BOB)
    await world.set_state(room_id, ALICE, "m.room.topic", {"topic": "x"})
    second = await sliding_v4.sync(first["pos"], state=state)
    third = await sliding_v4.sync(second["pos"], state=state)

    event_types = {event["type"] for event in first["rooms"][room_id]["required_state"]}
    assert event_types == {"m.room.power_levels", "m.room.join_rules"}
    [changed] = second["rooms"][room_id]["required_state"]
    assert changed["type"] == "m.room.topic"
    assert third["rooms"] == {}


async def test_lazy_members_with_all_other_state(sliding_v4: SlidingV4) -> None:
    world = sliding_v4.sliding.world
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.send(room_id, ALICE, "hi")

    response = await sliding_v4.sync(
        state={"include": [{}], "lazy_members": True}, timeline_limit=1
    )

    members = [
        event["state_key"]
        for event in response["rooms"][room_id]["required_state"]
        if event["type"] == "m.room.member"
    ]
    assert members == [ALICE]


async def test_expanded_timeline_is_marked(sliding_v4: SlidingV4) -> None:
    [room_id] = await busy_rooms(sliding_v4.sliding.world, ALICE, 1)
    await sliding_v4.sliding.world.send(room_id, ALICE, "second")
    first = await sliding_v4.sync(timeline_limit=1)

    second = await sliding_v4.sync(first["pos"], timeline_limit=2)

    assert bodies(second["rooms"][room_id]) == ["m0", "second"]
    assert second["rooms"][room_id]["expanded_timeline"] is True


async def test_pos_can_be_repeated_and_unknown_pos_is_rejected(sliding_v4: SlidingV4) -> None:
    rooms = await busy_rooms(sliding_v4.sliding.world, ALICE, 2)
    first = await sliding_v4.sync()
    await sliding_v4.sliding.world.send(RoomID(rooms[0]), ALICE, "news")

    original = await sliding_v4.sync(first["pos"])
    repeated = await sliding_v4.sync(first["pos"])
    unknown = await sliding_v4.sync("s1_c99", status=400)

    assert bodies(original["rooms"][rooms[0]]) == bodies(repeated["rooms"][rooms[0]]) == ["news"]
    assert unknown["errcode"] == "M_UNKNOWN_POS"


@pytest.mark.parametrize(
    "body",
    [
        {"lists": {"a": {"timeline_limit": 1}}},
        {"lists": {"a": {"required_state": {}}}},
        {"lists": {"a": {"timeline_limit": 1, "required_state": [["m.room.name", ""]]}}},
        {"lists": {str(n): {"timeline_limit": 1, "required_state": {}} for n in range(101)}},
        {
            "room_subscriptions": {
                f"!{n}:test": {"timeline_limit": 1, "required_state": {}} for n in range(101)
            }
        },
    ],
)
async def test_malformed_request_is_rejected(sliding_v4: SlidingV4, body: Any) -> None:
    response = await sliding_v4.client.post(PATH, body, token=ALICE)

    assert response.status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"set_presence": "busy"},
        {"lists": {"no/slash": {"timeline_limit": 1, "required_state": {}}}},
        {"lists": {"": {"timeline_limit": 1, "required_state": {}}}},
    ],
)
async def test_invalid_value_is_rejected(sliding_v4: SlidingV4, body: Any) -> None:
    response = await sliding_v4.client.post(PATH, body, token=ALICE)

    assert (response.status, response.errcode) == (400, "M_INVALID_PARAM")
