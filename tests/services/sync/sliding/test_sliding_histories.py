"""Randomized tests of sliding sync: a client ends up with the state of the server.

Events, ranges, timeline limits and lost responses are random. The client applies each response.
"""

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
    """A client that applies the responses that it receives."""

    form: str = "deployed"
    pos: str | None = None
    state: dict[str, dict[tuple[str, str], str]] = attrs.Factory(dict)
    timelines: dict[str, list[str]] = attrs.Factory(dict)

    async def sync(self, server: Sliding, lists: Any) -> None:
        response = await server.sync(ALICE, self.pos, lists=lists, form=self.form)
        self.pos = response["pos"]
        for room_id, room in response["rooms"].items():
            self._apply(room_id, room)

    def _apply(self, room_id: str, room: dict[str, Any]) -> None:
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
            assert not set(known) & set(events), "an event was sent twice"
            known += events


async def _act(chance: random.Random, server: Sliding, rooms: list[RoomID]) -> None:
    world = server.world
    room_id = chance.choice(rooms)
    action = chance.randrange(9)
    if action < 4:
        await world.send(room_id, CAROL)
    elif action == 4:
        topic = {"topic": str(chance.random())}
        await world.set_state(room_id, CAROL, "m.room.topic", topic)
    elif action == 5:
        rooms.append(await world.create_room(CAROL, join=[ALICE]))
    else:
        user_id = BOB if action < 8 else ALICE
        own = (await server.reading.memberships.rooms_of(user_id)).get(room_id)
        if own is not None and own.membership == "join":
            await world.leave(room_id, user_id)
        else:
            await world.join(room_id, user_id)


def _random_lists(chance: random.Random) -> Any:
    end = chance.choice([0, 1, 2, 99])
    more = {}
    if chance.random() < 0.3:
        more["excluded_state"] = chance.choice([[["m.room.member", "*"]], [["m.room.topic", ""]]])
    limit = chance.choice([1, 3, 50])
    return window([0, end], state=chance.choice([FEW, MANY]), limit=limit, **more)


@pytest.mark.parametrize("form", ["deployed", "accepted"])
@pytest.mark.parametrize("seed", range(8))
async def test_client_ends_up_with_state_of_server(
    database: Database, seed: int, form: str
) -> None:
    chance = random.Random(seed)
    async with open_two(database) as servers:
        first_server = servers[0]
        rooms = [await first_server.world.create_room(CAROL, join=[ALICE]) for _ in range(3)]
        client = Client(form)
        for _ in range(40):
            await _act(chance, first_server, rooms)
            if chance.random() < 0.4:
                lists = _random_lists(chance)
                if chance.random() < 0.3:
                    # The client does not receive this response.
                    await chance.choice(servers).sync(ALICE, client.pos, lists=lists, form=form)
                await client.sync(chance.choice(servers), lists)

        await client.sync(chance.choice(servers), window(state=MANY, limit=4))

        await _compare(first_server, client, rooms)
        final_lists = window(state=MANY, limit=4)
        assert (await first_server.sync(ALICE, client.pos, lists=final_lists, form=form))[
            "rooms"
        ] == {}


async def _compare(server: Sliding, client: Client, rooms: Sequence[RoomID]) -> None:
    joined = set(await server.reading.memberships.joined_rooms(ALICE))
    for room_id in joined:
        current = await server.world.states.current(room_id)
        expected = {
            key: event_id
            for key, event_id in current.items()
            if key[0] in ("m.room.member", "m.room.topic", "m.room.create")
        }
        assert client.state[room_id] == expected
        event_ids = [row.event_id for _, row in server.world.seen if row.room_id == room_id]
        timeline = client.timelines[room_id]
        assert len(timeline) >= min(4, len(event_ids))
        assert timeline == event_ids[-len(timeline) :]
    for room_id in set(rooms) - joined:
        received = client.timelines.get(room_id)
        if received:
            # It is not the latest leave event if the client never received the room in between.
            last_event = await server.world.events.get_one(EventID(received[-1]))
            assert last_event is not None
            assert last_event.event.state_key == ALICE
            assert last_event.event.content["membership"] == "leave"
