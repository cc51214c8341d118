"""A hostile server forks a room: the honest servers agree on its state, at limited cost."""

import random

import trio.testing

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.hot_room import MAX_EXTREMITIES_OF_SERVER
from hs.services.rooms.store.state_snapshots import StateMap
from tests.services.federation.shared_rooms import build_remotely, join_through, pass_on, receive
from tests.support.federation import FederatedServer, ScriptedPeer, open_servers

NEAR, FAR, BAD = (ServerName(f"{name}.example") for name in ("near", "far", "bad"))
ANN, BOB = UserID("@ann:near.example"), UserID("@bob:far.example")
MAL = UserID("@mal:bad.example")
FORKS = 50


async def forked_room(
    near: FederatedServer, far: FederatedServer, bad: ScriptedPeer
) -> tuple[RoomID, list[Event]]:
    """Return a room of three servers, and forks of the hostile one that nobody has received."""
    room_id = await near.world.create_room(ANN)
    await join_through(near, far, room_id, BOB)
    draft = Draft(event_types.MEMBER, MAL, {"membership": "join"}, MAL)
    joined = await build_remotely(near, bad, room_id, draft)
    for server in (near, far):
        await receive(server, room_id, joined)
    levels = {"users": {ANN: 100, MAL: 50}}
    power = await near.world.set_state(room_id, ANN, event_types.POWER_LEVELS, levels)
    await pass_on(near, far, room_id, power.event_id)
    forks = [
        await build_remotely(
            near, bad, room_id, Draft(event_types.TOPIC, MAL, {"topic": str(number)}, "")
        )
        for number in range(FORKS)
    ]
    return room_id, forks


async def state_before(server: FederatedServer, event_id: EventID) -> StateMap:
    """Return the state before an event, as a server has stored it."""
    stored = await server.world.events.get_one(event_id)
    assert stored is not None
    assert stored.snapshot_id is not None
    return await server.world.states.at_snapshot(stored.snapshot_id)


async def test_honest_servers_agree_after_fifty_forks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id, forks = await forked_room(near, far, ScriptedPeer(BAD, near.network))
        await receive(near, room_id, *forks)
        shuffled = forks[:]
        random.Random(1).shuffle(shuffled)
        await receive(far, room_id, *shuffled)
        counts = [server.world.rooms.extremity_count(room_id) for server in (near, far)]

        sent = [
            (near, far, await near.world.send(room_id, ANN)),
            (near, far, await near.world.set_state(room_id, ANN, "m.room.name", {"name": "x"})),
        ]
        for sender, receiving, event in sent:
            await pass_on(sender, receiving, room_id, event.event_id)
        answer = await far.world.send(room_id, BOB)
        await pass_on(far, near, room_id, answer.event_id)

        for _, _, event in (*sent, (far, near, answer)):
            assert await state_before(near, event.event_id) == await state_before(
                far, event.event_id
            )
        assert await near.world.states.current(room_id) == await far.world.states.current(room_id)
        assert counts == [MAX_EXTREMITIES_OF_SERVER] * 2
        ends = [server.world.rooms.extremity_count(room_id) for server in (near, far)]
        assert ends[0] == ends[1] <= 10
