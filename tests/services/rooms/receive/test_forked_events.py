"""Rooms of other servers reach the same state in whatever order their events arrive."""

import random
from collections.abc import Mapping, Sequence

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.format import MAX_PREV_EVENTS
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.receive.event_receiver import PduOutcome
from hs.storage.database import Database
from tests.core.stateres import oracle
from tests.support.peers import PEERS, History, State, random_history
from tests.support.receiving import ReceivingWorld, open_receiving
from tests.support.sql.databases import fresh_inline

VERSIONS = ("1", "2", "6", "11", "12")


def resolve_by_specification(
    states: Sequence[State], events: Mapping[EventID, Event]
) -> Mapping[StateKey, EventID]:
    """Resolve states with the naive implementation of the specification."""
    return oracle.resolve(states, events, set())


def joined_history(version: str, seed: int, steps: int = 25) -> History:
    """Return a random history whose last event cites all of its ends."""
    history = random_history(version, seed, steps, resolve_by_specification)
    while len(history.ends) > 1:
        ends = history.ends[:MAX_PREV_EVENTS]
        state = history.before(ends)
        joined = [user for user in PEERS if _is_joined(history, state, user)]
        history.add(joined[0], "m.room.message", {"body": "the end"}, after=ends)
    return history


def _is_joined(history: History, state: State, user: UserID) -> bool:
    member = state.get(("m.room.member", user))
    return member is not None and history.events[member].content["membership"] == "join"


async def import_history(world: ReceivingWorld, history: History) -> RoomID:
    """Import the room of a history."""
    assert history.room_id is not None
    received = await world.receiver.seed_room(history.room_id, history.version, *history.seed())
    assert received.verdicts[0].outcome == PduOutcome.ACCEPTED
    return history.room_id


async def deliver(
    world: ReceivingWorld, room_id: RoomID, events: Sequence[Event], chunk: random.Random
) -> None:
    """Receive events in chunks; those that wait for others are received again."""
    waiting: list[Event] = []
    start = 0
    while start < len(events) or waiting:
        size = chunk.randint(1, 6)
        batch = [*events[start : start + size], *waiting]
        waiting = []
        start += size
        received = await world.receiver.receive(
            room_id, [event.canonical for event in batch], [], {}
        )
        for event, verdict in zip(batch, received.verdicts, strict=True):
            assert verdict.event_id == event.event_id
            assert verdict.outcome not in (PduOutcome.REFUSED, PduOutcome.REJECTED), verdict
            if verdict.outcome == PduOutcome.WAITING:
                waiting.append(event)
        assert waiting == [] or received.missing.prev_events or received.missing.auth_events


async def check_states(world: ReceivingWorld, history: History, events: Sequence[Event]) -> None:
    """Check that the state before each event equals that of the history."""
    for event in events:
        stored = await world.events.get_one(event.event_id)
        assert stored is not None
        assert stored.snapshot_id is not None
        state = await world.states.at_snapshot(stored.snapshot_id)
        assert state == history.before(event.prev_events)


def shuffled(events: Sequence[Event], rng: random.Random) -> list[Event]:
    """Return events in a random order."""
    mixed = list(events)
    rng.shuffle(mixed)
    return mixed


@pytest.mark.parametrize("version", VERSIONS)
async def test_order_of_arrival_and_restarts_do_not_change_the_state(
    database: Database, version: str
) -> None:
    history = joined_history(version, seed=int(version) * 7)
    rng = random.Random(version)
    events = shuffled(history.later(), rng)
    half = len(events) // 2

    async with open_receiving(database) as world:
        room_id = await import_history(world, history)
        await deliver(world, room_id, history.later()[:half], rng)
    async with open_receiving(database) as world:
        await deliver(world, room_id, events, rng)

        await check_states(world, history, history.later())
        current = await world.states.current(room_id)
        assert current == history.before(history.ends)
    async with open_receiving(database) as world:
        assert await world.states.current(room_id) == current
        async with world.rooms.hold(room_id) as room:
            assert room.head.snapshot.map == current
            assert [end.event_id for end in room.head.extremities] == history.ends


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(VERSIONS), st.integers(0, 10**6), st.integers(0, 10**6))
def test_states_equal_those_of_the_specification(version: str, number: int, order: int) -> None:
    history = joined_history(version, number)

    async def run() -> None:
        async with fresh_inline() as database:
            async with open_receiving(database) as world:
                rng = random.Random(order)
                room_id = await import_history(world, history)
                await deliver(world, room_id, shuffled(history.later(), rng), rng)

                await check_states(world, history, history.later())
                current = await world.states.current(room_id)
                assert current == history.before(history.ends)

    trio.run(run)
