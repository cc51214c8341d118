"""Sliding sync at its stable path, with the names and rules of the accepted proposal."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from hs.apis.client.sync.sliding_sync_v4 import AcceptedSlidingSyncApi
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding, bodies, busy_rooms, open_sliding
from tests.support.web import Tokens, WebClient, client_for

PATH = "/_matrix/client/v4/sync"
NAMES = {"include": [{"type": "m.room.name", "state_key": ""}]}


@attrs.frozen(eq=False)
class Accepted:
    """Sliding sync over a world, asked through its endpoint by alice."""

    sliding: Sliding
    client: WebClient

    async def sync(
        self,
        pos: str | None = None,
        state: Any = NAMES,
        status: int = 200,
        rooms: Any = None,
        **list_: Any,
    ) -> Any:
        wanted = {"timeline_limit": 5, "required_state": state, "range": [0, 9], **list_}
        asked: dict[str, Any] = {"lists": {"all": wanted}, "room_subscriptions": rooms or {}}
        if pos is not None:
            asked |= {"pos": pos, "timeout": 0}
        answer = await self.client.post(PATH, asked, token="alice")
        assert answer.status == status, answer.json
        return answer.json


@pytest.fixture
async def accepted(database: Database) -> AsyncIterator[Accepted]:
    async with open_sliding(database) as sliding:
        tokens = Tokens()
        tokens.requesters["alice"] = Requester(ALICE, "DEVICE")
        yield Accepted(sliding, client_for(AcceptedSlidingSyncApi(sliding.service), tokens=tokens))


async def test_rooms_say_which_lists_show_them_and_have_no_counts(accepted: Accepted) -> None:
    [one, two] = await busy_rooms(accepted.sliding.world, ALICE, 2)
    subscribed = {one: {"timeline_limit": 1, "required_state": {}}}

    answer = await accepted.sync(rooms=subscribed, range=[0, 0])

    assert answer["lists"] == {"all": {"count": 2}}
    assert answer["rooms"][two]["lists"] == ["all"]
    assert "lists" not in answer["rooms"][one]
    assert {room["membership"] for room in answer["rooms"].values()} == {"join"}
    assert not any("notification_count" in room for room in answer["rooms"].values())


async def test_invites_come_with_stripped_state(accepted: Accepted) -> None:
    room_id = await accepted.sliding.world.create_room(BOB, invite=[ALICE])

    shown = await accepted.sync(filters={"is_invited": True})
    others = await accepted.sync(filters={"is_invited": False})

    room = shown["rooms"][room_id]
    assert room["membership"] == "invite"
    assert room["stripped_state"][-1]["state_key"] == ALICE
    assert "invite_state" not in room
    assert others["rooms"] == {}


@pytest.mark.parametrize("who", [ALICE, BOB])
@pytest.mark.parametrize("asked_by", [ALICE, BOB])
async def test_how_an_invite_or_knock_ended_comes_as_stripped_state(
    accepted: Accepted, who: UserID, asked_by: UserID
) -> None:
    world = accepted.sliding.world
    room_id = await world.create_room(BOB, join_rule="knock")
    await world.set_state(room_id, BOB, "m.room.name", {"name": "Den"})
    began = "invite" if asked_by == BOB else "knock"
    await world.set_membership(room_id, asked_by, ALICE, began)
    first = await accepted.sync()
    await world.set_state(room_id, BOB, "m.room.name", {"name": "not hers to see"})
    await world.set_membership(room_id, who, ALICE, "leave")

    second = await accepted.sync(first["pos"])

    [(room_id_told, room)] = second["rooms"].items()
    assert room_id_told == room_id
    assert room.keys() == {"membership", "stripped_state", "bump_stamp", "lists"}
    assert (room["membership"], room["lists"]) == ("leave", ["all"])
    *before, last = first["rooms"][room_id]["stripped_state"]
    assert last["content"] == {"membership": began}
    left = {"type": "m.room.member", "state_key": ALICE, "sender": who}
    assert room["stripped_state"] == [*before, {**left, "content": {"membership": "leave"}}]
    assert (await accepted.sync(second["pos"]))["rooms"] == {}


async def test_who_was_in_a_room_gets_no_stripped_state_of_it(accepted: Accepted) -> None:
    world = accepted.sliding.world
    room_id = await world.create_room(BOB, join=[ALICE])
    first = await accepted.sync()
    await world.leave(room_id, ALICE)
    second = await accepted.sync(first["pos"])
    invited = await world.create_room(BOB, invite=[CAROL, ALICE])
    third = await accepted.sync(second["pos"])
    await world.join(invited, ALICE)
    await world.leave(invited, ALICE)

    fourth = await accepted.sync(third["pos"])

    for room in (second["rooms"][room_id], fourth["rooms"][invited]):
        assert room["membership"] == "leave"
        assert room["timeline"][-1]["content"] == {"membership": "leave"}
        assert "stripped_state" not in room


async def test_rooms_are_ordered_by_their_last_event_of_any_type(accepted: Accepted) -> None:
    world = accepted.sliding.world
    rooms = await busy_rooms(world, ALICE, 3)
    first = await accepted.sync(range=[0, 0])
    await world.set_state(rooms[0], ALICE, "org.example.quiet", {})

    second = await accepted.sync(first["pos"], range=[0, 0])

    assert list(first["rooms"]) == [rooms[2]]
    assert list(second["rooms"]) == [rooms[0]]


async def test_state_that_is_excluded_is_not_told(accepted: Accepted) -> None:
    world = accepted.sliding.world
    room_id = await world.create_room(ALICE, join=[BOB])
    state = {
        "include": [{}],
        "exclude": [{"type": "m.room.create", "state_key": ""}, {"type": "m.room.member"}],
    }

    first = await accepted.sync(state=state)
    await world.leave(room_id, BOB)
    await world.set_state(room_id, ALICE, "m.room.topic", {"topic": "x"})
    second = await accepted.sync(first["pos"], state=state)
    third = await accepted.sync(second["pos"], state=state)

    told = {one["type"] for one in first["rooms"][room_id]["required_state"]}
    assert told == {"m.room.power_levels", "m.room.join_rules"}
    [changed] = second["rooms"][room_id]["required_state"]
    assert changed["type"] == "m.room.topic"
    assert third["rooms"] == {}


async def test_members_are_brought_lazily_besides_all_other_state(accepted: Accepted) -> None:
    world = accepted.sliding.world
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.send(room_id, ALICE, "hi")

    answer = await accepted.sync(state={"include": [{}], "lazy_members": True}, timeline_limit=1)

    members = [
        one["state_key"]
        for one in answer["rooms"][room_id]["required_state"]
        if one["type"] == "m.room.member"
    ]
    assert members == [ALICE]


async def test_a_longer_timeline_says_so(accepted: Accepted) -> None:
    [room_id] = await busy_rooms(accepted.sliding.world, ALICE, 1)
    await accepted.sliding.world.send(room_id, ALICE, "second")
    first = await accepted.sync(timeline_limit=1)

    second = await accepted.sync(first["pos"], timeline_limit=2)

    assert bodies(second["rooms"][room_id]) == ["m0", "second"]
    assert second["rooms"][room_id]["expanded_timeline"] is True


async def test_the_same_pos_may_come_again_and_an_unknown_one_is_told(accepted: Accepted) -> None:
    rooms = await busy_rooms(accepted.sliding.world, ALICE, 2)
    first = await accepted.sync()
    await accepted.sliding.world.send(RoomID(rooms[0]), ALICE, "news")

    once = await accepted.sync(first["pos"])
    again = await accepted.sync(first["pos"])
    unknown = await accepted.sync("s1_c99", status=400)

    assert bodies(once["rooms"][rooms[0]]) == bodies(again["rooms"][rooms[0]]) == ["news"]
    assert unknown["errcode"] == "M_UNKNOWN_POS"


@pytest.mark.parametrize(
    "asked",
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
async def test_what_makes_no_sense_is_refused(accepted: Accepted, asked: Any) -> None:
    answer = await accepted.client.post(PATH, asked, token="alice")

    assert answer.status == 400


@pytest.mark.parametrize(
    "asked",
    [
        {"set_presence": "busy"},
        {"lists": {"no/slash": {"timeline_limit": 1, "required_state": {}}}},
        {"lists": {"": {"timeline_limit": 1, "required_state": {}}}},
    ],
)
async def test_values_out_of_their_grammar_are_invalid(accepted: Accepted, asked: Any) -> None:
    answer = await accepted.client.post(PATH, asked, token="alice")

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
