"""Rooms with more forward extremities than an event may cite."""

import pytest

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.services.rooms.append.hot_room import MAX_EXTREMITIES_OF_SERVER, MAX_PREV_EVENTS
from hs.storage.database import Database
from tests.services.rooms.receive.test_event_intake import BAN, import_joined_room, receive
from tests.support.peers import ADMIN, BERT, CORA, History
from tests.support.receiving import ReceivingWorld, open_receiving
from tests.support.rooms import ALICE, BOB, CAROL, message

TOPIC = event_types.TOPIC


def topics(history: History, count: int, after: list[EventID]) -> list[Event]:
    """Let Bert fork the room, with a topic in each fork."""
    return [
        history.add(BERT, TOPIC, {"topic": str(number)}, "", after=after) for number in range(count)
    ]


async def extremities(world: ReceivingWorld, room_id: RoomID) -> list[EventID]:
    """Return the forward extremities of a room."""
    async with world.rooms.hold(room_id) as room:
        return [end.event_id for end in room.head.extremities]


async def check_own_event(
    world: ReceivingWorld, history: History, sent: AppendedEvent
) -> tuple[EventID, ...]:
    """Check the states before an event of this server and after it; return what it cites."""
    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    event = stored.event
    history.keep(event)
    before = history.before(event.prev_events)
    assert await world.states.at_snapshot(stored.snapshot_id or 0) == before
    assert {
        (history.events[each].type, history.events[each].state_key) for each in event.auth_events
    } <= set(before)
    assert set(event.auth_events) <= set(before.values())
    current = history.before(await extremities(world, sent.room_id))
    assert await world.states.current(sent.room_id) == current
    return event.prev_events


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_state_before_own_events_is_that_of_what_they_cite(
    world: ReceivingWorld, version: str
) -> None:
    room_id, history = await import_joined_room(world, version)
    start = history.ends[:]
    levels = {"users": {BERT: 50, **({} if version == "12" else {ADMIN: 100})}}
    power = history.add(ADMIN, event_types.POWER_LEVELS, {**levels, "ban": 50}, "", after=start)
    forks = topics(history, 18, start)
    await receive(world, power, *forks)

    said = await check_own_event(world, history, await world.send(room_id, ALICE))
    invited = await check_own_event(
        world, history, await world.set_membership(room_id, ALICE, BOB, "invite")
    )
    last = await check_own_event(world, history, await world.send(room_id, ALICE))

    assert power.event_id in said
    assert len(said) == MAX_PREV_EVENTS
    assert len(invited) == MAX_PREV_EVENTS
    assert len(last) < MAX_PREV_EVENTS


async def test_restart_between_many_extremities_changes_nothing(database: Database) -> None:
    async with open_receiving(database) as world:
        room_id, history = await import_joined_room(world)
        await receive(world, *topics(history, 15, history.ends[:]))
        await check_own_event(world, history, await world.send(room_id, ALICE))
    async with open_receiving(database) as world:
        assert await world.states.current(room_id) == history.before(
            await extremities(world, room_id)
        )
        await receive(world, *topics(history, 15, [history.ends[0]]))
        await check_own_event(world, history, await world.send(room_id, ALICE))


async def test_current_state_authorizes_own_events_that_do_not_cite_it(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    ban = history.add(ADMIN, event_types.MEMBER, BAN, ALICE, after=start)
    deep = history.add(ADMIN, "m.room.message", {"body": "deep"}, after=start)
    forks = [
        history.add(ADMIN, TOPIC, {"topic": str(number)}, "", after=[deep.event_id])
        for number in range(MAX_PREV_EVENTS + 1)
    ]
    await receive(world, ban, deep, *forks)

    async with world.rooms.hold(room_id) as room:
        cited = room.head.cited_extremities(room.head.extremities[0].server)
    with pytest.raises(Forbidden):
        await world.send(room_id, ALICE)

    assert ban.event_id not in {end.event_id for end in cited}


async def test_batch_with_several_state_events_is_appended_whole(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    await receive(world, *topics(history, 15, history.ends[:]))

    invite = {"membership": "invite"}
    drafts = [Draft(event_types.MEMBER, ALICE, invite, user) for user in (BOB, CAROL)]
    appended = await world.append(room_id, *drafts, message(ALICE, "hi"))

    for event in appended:
        stored = await world.events.get_one(event.event_id)
        assert stored is not None
        history.keep(stored.event)
    current = await world.states.current(room_id)
    assert current == history.before(await extremities(world, room_id))
    assert current[event_types.MEMBER, CAROL] == appended[1].event_id


async def test_forks_of_a_server_beyond_a_limit_do_not_count(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    name = history.add(ADMIN, "m.room.name", {"name": "honest"}, "", after=start)
    await receive(world, name)
    forks = topics(history, 50, start)
    await receive(world, *forks)

    ends = await extremities(world, room_id)
    counted = {event.event_id for event in forks} & set(ends)
    assert len(counted) == MAX_EXTREMITIES_OF_SERVER
    assert set(ends) - counted == {name.event_id}
    assert await world.states.current(room_id) == history.before(ends)
    # The others count when they are cited, and honest events do, however many forks there are.
    left_out = next(event.event_id for event in forks if event.event_id not in ends)
    joined = history.add(CORA, "m.room.message", {"body": "x"}, after=[name.event_id, left_out])
    await receive(world, joined)
    after = await extremities(world, room_id)
    assert set(after) == {joined.event_id, *counted}
    assert await world.states.current(room_id) == history.before(after)
