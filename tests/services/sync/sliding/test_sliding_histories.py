"""Sliding sync: whatever happens and however the windows move, a client ends up with the truth."""

import random
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from hs.core.ids import EventID, RoomID
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding, open_two, window

FEW = [["m.room.topic", ""]]
MANY = [["m.room.topic", ""], ["m.room.member", "*"], ["m.room.create", ""]]


@attrs.define
class Client:
    """What a client makes of the answers it gets."""

    form: str = "deployed"
    pos: str | None = None
    state: dict[str, dict[tuple[str, str], str]] = attrs.Factory(dict)
    timelines: dict[str, list[str]] = attrs.Factory(dict)

    async def sync(self, server: Sliding, lists: Any) -> None:
        answer = await server.sync(ALICE, self.pos, lists=lists, form=self.form)
        self.pos = answer["pos"]
        for room_id, room in answer["rooms"].items():
            self._take(room_id, room)

    def _take(self, room_id: str, room: dict[str, Any]) -> None:
        if room.get("initial"):
            self.state[room_id] = {}
            self.timelines[room_id] = []
        for event in room.get("required_state", ()):
            key = event["type"], event["state_key"]
            if "event_id" in event:
                self.state[room_id][key] = event["event_id"]
            else:
                self.state[room_id].pop(key, None)
        events = [event["event_id"] for event in room.get("timeline", ())]
        expanded = room.get("unstable_expanded_timeline") or room.get("expanded_timeline")
        if room.get("limited") or expanded:
            self.timelines[room_id] = events
        else:
            known = self.timelines[room_id]
            assert not set(known) & set(events), "told twice"
            known += events


async def _happen(chance: random.Random, one: Sliding, rooms: list[RoomID]) -> None:
    world = one.world
    room_id = chance.choice(rooms)
    what = chance.randrange(9)
    if what < 4:
        await world.send(room_id, CAROL)
    elif what == 4:
        topic = {"topic": str(chance.random())}
        await world.set_state(room_id, CAROL, "m.room.topic", topic)
    elif what == 5:
        rooms.append(await world.create_room(CAROL, join=[ALICE]))
    else:
        who = BOB if what < 8 else ALICE
        own = (await one.reading.memberships.rooms_of(who)).get(room_id)
        if own is not None and own.membership == "join":
            await world.leave(room_id, who)
        else:
            await world.join(room_id, who)


def _asked(chance: random.Random) -> Any:
    end = chance.choice([0, 1, 2, 99])
    more = {}
    if chance.random() < 0.3:
        more["excluded_state"] = chance.choice([[["m.room.member", "*"]], [["m.room.topic", ""]]])
    limit = chance.choice([1, 3, 50])
    return window([0, end], state=chance.choice([FEW, MANY]), limit=limit, **more)


@pytest.mark.parametrize("form", ["deployed", "accepted"])
@pytest.mark.parametrize("seed", range(8))
async def test_a_client_ends_up_with_the_truth(database: Database, seed: int, form: str) -> None:
    chance = random.Random(seed)
    async with open_two(database) as servers:
        one = servers[0]
        rooms = [await one.world.create_room(CAROL, join=[ALICE]) for _ in range(3)]
        client = Client(form)
        for _ in range(40):
            await _happen(chance, one, rooms)
            if chance.random() < 0.4:
                asked = _asked(chance)
                if chance.random() < 0.3:
                    # This answer gets lost on its way.
                    await chance.choice(servers).sync(ALICE, client.pos, lists=asked, form=form)
                await client.sync(chance.choice(servers), asked)

        await client.sync(chance.choice(servers), window(state=MANY, limit=4))

        await _compare(one, client, rooms)
        last = window(state=MANY, limit=4)
        assert (await one.sync(ALICE, client.pos, lists=last, form=form))["rooms"] == {}


async def _compare(one: Sliding, client: Client, rooms: Sequence[RoomID]) -> None:
    joined = set(await one.reading.memberships.joined_rooms(ALICE))
    for room_id in joined:
        current = await one.world.states.current(room_id)
        wanted = {
            key: event_id
            for key, event_id in current.items()
            if key[0] in ("m.room.member", "m.room.topic", "m.room.create")
        }
        assert client.state[room_id] == wanted
        happened = [row.event_id for _, row in one.world.seen if row.room_id == room_id]
        timeline = client.timelines[room_id]
        assert len(timeline) >= min(4, len(happened))
        assert timeline == happened[-len(timeline) :]
    for room_id in set(rooms) - joined:
        told = client.timelines.get(room_id)
        if told:
            # Perhaps not the last time they left, if they never saw the room in between.
            last = await one.world.events.get_one(EventID(told[-1]))
            assert last is not None
            assert last.event.state_key == ALICE
            assert last.event.content["membership"] == "leave"
