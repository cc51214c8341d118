"""Random histories: whenever clients sync, they end up with the current state of the room."""

from collections.abc import Sequence
from random import Random
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.core.errors import MatrixError
from hs.core.ids import RoomID, UserID
from hs.lib.clock import FixedClock
from hs.services.rooms.append.drafts import Draft
from tests.support.rooms import ALICE, BOB, CAROL, member
from tests.support.sql.databases import fresh_inline
from tests.support.syncing import Syncing, open_syncing

USERS = (ALICE, BOB, CAROL)
LENGTH = 60
KINDS = {
    "say": 6,
    "topic": 3,
    "name": 2,
    "rename": 2,
    "join": 5,
    "leave": 2,
    "kick": 1,
    "invite": 1,
    "sync": 7,
    "lose": 1,
    "restart": 1,
}
OF_GUESTS = ("join", "leave", "kick", "invite")
Step = tuple[str, UserID, int]


def history(seed: int) -> list[Step]:
    """Return a random history, the same for the same seed."""
    chance = Random(seed)
    steps = []
    for kind in chance.choices(list(KINDS), list(KINDS.values()), k=LENGTH):
        user_id = chance.choice(USERS[1:] if kind in OF_GUESTS else USERS)
        steps.append((kind, user_id, chance.randint(1, 6)))
    return steps


@attrs.define
class Client:
    """A client that merges every response into its state."""

    user_id: UserID
    limit: int
    after: bool
    lazy: bool
    token: str | None = None
    state: dict[tuple[str, str], str] = attrs.Factory(dict)
    received: list[str] = attrs.Factory(list)
    section: str | None = None
    complete: bool = True

    async def sync(self, s: Syncing) -> dict[str, Any]:
        return await s.sync(
            self.user_id,
            self.token,
            filter={
                "room": {
                    "timeline": {"limit": self.limit},
                    "state": {"lazy_load_members": self.lazy},
                }
            },
            state_after="state_after" if self.after else None,
        )

    def take(self, answer: dict[str, Any], room_id: RoomID) -> None:
        self.token = answer["next_batch"]
        for section, rooms in answer.get("rooms", {}).items():
            if room_id not in rooms:
                continue
            room = rooms[room_id]
            if section in ("join", "leave"):
                if section == "join" and self.section != "join":
                    self.state.clear()
                self._apply(room)
            self.section = section

    def _apply(self, room: dict[str, Any]) -> None:
        timeline = room["timeline"]["events"]
        changes = room["state_after" if self.after else "state"]["events"]
        if not self.after:
            changes = [*changes, *timeline]
        for event in changes:
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event["event_id"]
        event_ids = [event["event_id"] for event in timeline]
        assert not set(event_ids) & set(self.received), "received twice"
        self.complete = self.complete and not room["timeline"]["limited"]
        self.received += event_ids


async def act(s: Syncing, room_id: RoomID, step: Step, number: int) -> None:
    kind, user_id, count = step
    drafts = {
        "topic": Draft("m.room.topic", user_id, {"topic": str(number)}, ""),
        "name": Draft("m.room.name", user_id, {"name": str(number)}, ""),
        "rename": member(user_id, "join", displayname=str(number)),
        "join": member(user_id, "join"),
        "leave": member(user_id, "leave"),
        "kick": Draft("m.room.member", ALICE, {"membership": "leave"}, user_id),
        "invite": Draft("m.room.member", ALICE, {"membership": "invite"}, user_id),
    }
    try:
        if kind == "say":
            for n in range(count):
                await s.world.send(room_id, user_id, f"{number}.{n}")
        else:
            await s.world.append(room_id, drafts[kind])
    except MatrixError:
        return  # not allowed at this point of the history


async def check(s: Syncing, client: Client, room_id: RoomID) -> None:
    client.take(await client.sync(s), room_id)
    assert "rooms" not in await client.sync(s), "the response was incomplete"
    current = dict(await s.world.states.current(room_id))
    own = current.get(("m.room.member", client.user_id))
    stored = None if own is None else await s.world.events.get_one(own)
    joined = stored is not None and stored.event.content["membership"] == "join"
    assert joined == (client.section == "join")
    if not joined:
        return
    if client.lazy:
        assert all(current[key] == event_id for key, event_id in client.state.items())
        assert all(key in client.state for key in current if key[0] != "m.room.member")
    else:
        assert client.state == current


async def play(steps: Sequence[Step], clients: Sequence[Client]) -> None:
    async with fresh_inline() as database:
        room_id: RoomID | None = None
        lives: list[list[Step]] = [[]]
        for step in steps:
            if step[0] == "restart":
                lives.append([])
            else:
                lives[-1].append(step)
        number = 0
        clock = FixedClock()
        for life in lives:
            clock.advance(1000)
            async with open_syncing(database, clock=clock) as s:
                if room_id is None:
                    levels = {"events": {"m.room.topic": 0, "m.room.name": 0}, "state_default": 0}
                    room_id = await s.world.create_room(ALICE, power_levels=levels)
                for step in life:
                    number += 1
                    if step[0] in ("sync", "lose"):
                        for client in clients:
                            if client.user_id == step[1]:
                                answer = await client.sync(s)
                                if step[0] == "sync":
                                    client.take(answer, room_id)
                    else:
                        await act(s, room_id, step, number)
                if life is lives[-1]:
                    for client in clients:
                        await check(s, client, room_id)


@pytest.mark.parametrize("after", [False, True])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    limits=st.tuples(*[st.integers(0, 8)] * 3),
    lazy=st.booleans(),
)
def test_clients_that_merge_responses_have_the_current_state(
    after: bool, seed: int, limits: tuple[int, int, int], lazy: bool
) -> None:
    clients = [
        Client(user_id, limit, after, lazy) for user_id, limit in zip(USERS, limits, strict=True)
    ]

    trio.run(play, history(seed), clients)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_member_with_a_long_timeline_receives_every_event(seed: int) -> None:
    client = Client(ALICE, 1000, False, False)

    trio.run(play, history(seed), [client])

    assert client.complete
