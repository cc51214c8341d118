"""State: snapshots, current state in other processes, and restarts."""

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID
from hs.repl.feed import Feed
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.state_snapshots import Snapshot, unstored
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database
from hs.storage.rooms import state
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.rooms import ALICE, BOB, CAROL, World, message, open_world
from tests.support.sql.databases import fresh_inline

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xy")),  # set a state entry
        st.none(),  # send a message
    ),
    max_size=25,
)


async def test_rooms_continue_after_a_restart(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, version="2", join=[BOB])
        last = await world.send(room_id, BOB)
        before = await world.states.current(room_id)

    async with open_world(database) as world:
        sent = await world.send(room_id, BOB)
        await world.set_membership(room_id, ALICE, BOB, "ban")
        stored = await world.events.get_one(sent.event_id)

        assert stored is not None
        assert stored.event.prev_events == (last.event_id,)
        assert sent.stream_id > last.stream_id
        assert await world.states.at_snapshot(stored.snapshot_id or 0) == before


async def test_current_state_follows_the_feed_in_other_processes(database: Database) -> None:
    neighbours = Neighbourhood()
    main, worker = worker_settings(SETTINGS, "main", "reader"), worker_settings(SETTINGS, "reader")
    async with (
        open_world(database, main, neighbours=neighbours) as world,
        open_world(database, worker, neighbours=neighbours) as reader,
    ):
        states = reader.states
        room_id = await world.create_room(ALICE)
        assert await states.current(room_id) == await world.states.current(room_id)

        await world.join(room_id, BOB)
        named = await world.set_state(room_id, ALICE, "m.room.name", {"name": "Tea"})

        cached = states.current_nowait(room_id)
        name = await states.current_event(room_id, "m.room.name")
        assert cached is not None
        assert cached == world.rooms._rooms[room_id].head.snapshot.map
        assert name is not None
        assert name.event_id == named.event_id


async def test_single_entries_are_read_without_the_whole_state(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    sent = await world.send(room_id, BOB)
    key = ("m.room.member", BOB)
    whole = await world.states.current(room_id)
    cold = StateStore(world.database, Feed(), world.events)
    stored = await world.events.get_one(sent.event_id)
    assert stored is not None

    assert await cold.current_of_keys(room_id, [key, ("m.room.name", "")]) == {key: whole[key]}
    assert len(await cold.current_of_types(room_id, ["m.room.member"])) == 3
    assert await cold.snapshot_entries(stored.snapshot_id or 0, [key]) == {key: whole[key]}
    assert await cold.at_snapshot(stored.snapshot_id or 0) == whole


async def test_replaced_state_events_are_found_in_memory_and_in_the_database(
    world: World,
) -> None:
    room_id = await world.create_room(ALICE)
    first = await world.set_state(room_id, ALICE, "m.room.name", {"name": "Tea"})
    sent = await world.send(room_id, ALICE)
    second = await world.set_state(room_id, ALICE, "m.room.name", {"name": "Coffee"})
    stored = await world.events.get([first.event_id, sent.event_id, second.event_id])

    for states in (world.states, StateStore(world.database, Feed(), world.events)):
        replaced = await states.replaced_events(stored.values())
        assert replaced == {second.event_id: stored[first.event_id]}
        assert await states.replaced_event(stored[first.event_id]) is None


async def test_rooms_that_are_dropped_while_others_are_read_keep_their_state(
    world: World,
) -> None:
    rooms = [await world.create_room(ALICE) for _ in range(2)]
    whole = [await world.states.current(room_id) for room_id in rooms]
    room_for_one = len(whole[0]) * state_snapshots.ENTRY_BYTES + 500
    states = StateStore(world.database, Feed(), world.events, max_current_bytes=room_for_one)
    await states.current(rooms[0])

    assert await states.current_in(rooms) == dict(zip(rooms, whole, strict=True))


@pytest.mark.parametrize("hops", [1, 3])
async def test_chains_of_snapshots_are_bounded(
    world: World, hops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_snapshots, "MIN_HOPS", hops)
    room_id = await world.create_room(ALICE)
    drafts = [Draft("m.test", ALICE, {"n": n}, str(n % 4)) for n in range(20)]

    for draft in drafts:
        await world.append(room_id, draft, message(ALICE))

    last = await world.events.get_one(EventID(world.seen[-1][1].event_id))
    assert last is not None
    assert last.snapshot_id is not None
    chain = await world.database.read(state.load_chain, last.snapshot_id)
    assert len(chain) <= hops + 1
    cold = StateStore(world.database, Feed(), world.events)
    assert await cold.at_snapshot(last.snapshot_id) == await world.states.current(room_id)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls=st.lists(CHANGES.filter(len), max_size=6))
def test_snapshots_equal_the_replayed_state(
    calls: list[list[tuple[str, str] | None]],
) -> None:
    async def check() -> None:
        async with fresh_inline() as database:
            async with open_world(database) as world:
                room_id = await world.create_room(ALICE)
                for changes in calls:
                    await world.append(room_id, *(_draft(change) for change in changes))
                await _check_replay(world, room_id)

    trio.run(check)


def _draft(change: tuple[str, str] | None) -> Draft:
    return message(ALICE) if change is None else Draft(change[0], ALICE, {}, change[1])


async def _check_replay(world: World, room_id: RoomID) -> None:
    cold = StateStore(world.database, Feed(), world.events)
    replayed: dict[StateKey, EventID] = {}
    for _, row in world.seen:
        stored = await world.events.get_one(EventID(row.event_id))
        assert stored is not None
        assert dict(await cold.at_snapshot(stored.snapshot_id or 0)) == replayed
        if row.state_key is not None:
            replayed[(row.type, row.state_key)] = EventID(row.event_id)
    assert dict(await cold.current(room_id)) == replayed


@given(st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 5)))))
def test_snapshot_map_equals_its_chain_of_changes(
    changes: list[tuple[int, int | None]],
) -> None:
    snapshot = state_snapshots.empty()
    plain: dict[StateKey, EventID] = {}
    for key_number, value in changes:
        key = ("type", str(key_number))
        new = None if value is None else EventID(f"${value}")
        snapshot = snapshot.after({key: new})
        if new is None:
            plain.pop(key, None)
        else:
            plain[key] = new

    assert dict(snapshot.map) == plain
    assert _replay_chain(snapshot) == plain


def _replay_chain(snapshot: Snapshot) -> dict[StateKey, EventID]:
    result: dict[StateKey, EventID] = {}
    for part in unstored(snapshot):
        if part.changes is None:
            result = dict(part.map)
            continue
        for key, event_id in part.changes.items():
            if event_id is None:
                result.pop(key, None)
            else:
                result[key] = event_id
    return result


def test_packed_deltas_are_unpacked() -> None:
    pairs = [(1, 5), (2**40, -7), (3, state.REMOVED)]

    assert list(state.unpack(state.pack(pairs))) == pairs
