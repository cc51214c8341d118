"""State resolution: agreement with the oracle on random forked rooms, and particular cases."""

import hashlib
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from immutables import Map

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.conflict import StateMap, find_conflict
from hs.core.stateres.loading import LoadedEvents
from hs.core.stateres.resolve import (
    Resolution,
    ResolutionInput,
    resolution_steps,
    resolve,
    run_in_memory,
)
from hs.core.versions import ROOM_VERSIONS
from tests.core.stateres import oracle
from tests.support.inputs.forked_rooms import (
    ADMIN,
    USERS,
    ForkedRoom,
    forked_rooms,
    new_room,
    power_levels,
)

VERSIONS = ("1", "2", "6", "11", "12")
ROOMS = st.one_of([forked_rooms(ROOM_VERSIONS[version]) for version in VERSIONS])
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BOB, CAROL = USERS[1], USERS[2]


@pytest.mark.parametrize("version", VERSIONS)
@settings(SETTINGS, max_examples=60)
@given(data=st.data())
def test_resolution_agrees_with_oracle(version: str, data: st.DataObject) -> None:
    room = data.draw(forked_rooms(ROOM_VERSIONS[version]))
    # The create event and the creator's join are never rejected.
    rejectable = list(room.events)[2:]
    rejected = data.draw(st.sets(st.sampled_from(rejectable), max_size=2))

    resolved = resolve(room.rules, room.forks, room.events, rejected)

    assert dict(resolved) == oracle.resolve(room.forks, room.events, rejected)


@SETTINGS
@given(ROOMS)
def test_resolution_does_not_depend_on_the_order_of_forks(room: ForkedRoom) -> None:
    results = {
        resolve(room.rules, forks, room.events) for forks in itertools.permutations(room.forks)
    }

    assert len(results) == 1


@SETTINGS
@given(ROOMS)
def test_resolution_is_idempotent(room: ForkedRoom) -> None:
    resolved = resolve(room.rules, room.forks, room.events)

    assert resolve(room.rules, [resolved, resolved], room.events) == resolved
    assert resolve(room.rules, [room.forks[0]], room.events) == room.forks[0]


@SETTINGS
@given(ROOMS)
def test_unconflicted_state_is_kept(room: ForkedRoom) -> None:
    resolved = resolve(room.rules, room.forks, room.events)

    for key, event_id in find_conflict(room.forks).unconflicted.items():
        assert resolved[key] == event_id


@SETTINGS
@given(ROOMS)
def test_additional_loaded_events_do_not_change_result(room: ForkedRoom) -> None:
    conflict = find_conflict(room.forks)
    problem = ResolutionInput(room.rules, conflict, frozenset(), conflict.event_ids)
    minimal, sent_all = resolution_steps(problem), resolution_steps(problem)

    assert run_in_memory(minimal, LoadedEvents(room.events)) == _send_all_events(sent_all, room)


def _send_all_events(steps: Resolution, room: ForkedRoom) -> Map[StateKey, EventID]:
    try:
        next(steps)
        while True:
            steps.send(LoadedEvents(room.events))
    except StopIteration as stop:
        resolved: Map[StateKey, EventID] = stop.value
        return resolved


def fork(room: ForkedRoom, *changes: tuple[str, tuple[str, str, dict[str, object]], int]) -> int:
    """Add consecutive changes after the initial state; return the number of the last."""
    parent = 5
    for sender, change, clock in changes:
        assert room.add(parent, sender, change, clock)
        parent = len(room.tips) - 1
    return parent


def member(user: str, membership: str) -> tuple[str, str, dict[str, object]]:
    return "m.room.member", user, {"membership": membership}


def topic(text: str) -> tuple[str, str, dict[str, object]]:
    return "m.room.topic", "", {"topic": text}


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_ban_overrides_concurrent_actions_of_banned_user(version: str) -> None:
    room = new_room(ROOM_VERSIONS[version])
    banned = fork(room, (ADMIN, member(BOB, "ban"), 20))
    active = fork(room, (BOB, topic("mine"), 30), (BOB, member(CAROL, "ban"), 31))

    resolved = resolve(room.rules, [room.states[banned], room.states[active]], room.events)

    assert resolved["m.room.member", BOB] == room.tips[banned]
    assert ("m.room.topic", "") not in resolved
    assert resolved["m.room.member", CAROL] == room.states[5]["m.room.member", CAROL]


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_demotion_by_more_powerful_user_wins(version: str) -> None:
    room = new_room(ROOM_VERSIONS[version])
    by_admin = fork(room, (ADMIN, power_levels(room, {ADMIN: 100}), 50))
    by_bob = fork(room, (BOB, power_levels(room, {ADMIN: 100, BOB: 50, CAROL: 25}), 20))

    resolved = resolve(room.rules, [room.states[by_admin], room.states[by_bob]], room.events)

    assert resolved["m.room.power_levels", ""] == room.tips[by_admin]


def test_version_1_breaks_depth_ties_by_hash() -> None:
    room = new_room(ROOM_VERSIONS["1"])
    numbers = [fork(room, (ADMIN, topic(text), 20)) for text in "abcd"]
    topics = {room.tips[number] for number in numbers}

    resolved = resolve(room.rules, [room.states[number] for number in numbers], room.events)

    lowest = min(topics, key=lambda event_id: hashlib.sha1(str(event_id).encode()).hexdigest())
    assert resolved["m.room.topic", ""] == lowest


@pytest.mark.parametrize(("version", "expected"), [("11", False), ("12", True)])
def test_subgraph_is_used_from_version_2_1_on(version: str, expected: bool) -> None:
    room = new_room(ROOM_VERSIONS[version])
    numbers = [fork(room, (ADMIN, topic(text), 20)) for text in "ab"]
    conflict = find_conflict([room.states[number] for number in numbers])
    between = room.states[5]["m.room.member", CAROL]

    requested = next(
        resolution_steps(ResolutionInput(room.rules, conflict, frozenset(), {between}))
    )

    assert (between in requested) is expected


def test_missing_events_are_ignored() -> None:
    room = new_room(ROOM_VERSIONS["11"])
    first = fork(room, (ADMIN, topic("one"), 20))
    second = fork(room, (ADMIN, topic("two"), 30))
    known = {key: event for key, event in room.events.items() if key != room.tips[second]}

    resolved = resolve(room.rules, [room.states[first], room.states[second]], known)

    assert resolved["m.room.topic", ""] == room.tips[first]


def test_key_missing_in_one_state_is_conflicted() -> None:
    a, b, c = (EventID(f"${name}") for name in "abc")
    first: StateMap = Map([(("x", ""), a), (("y", ""), b)])
    second: StateMap = {("x", ""): a, ("z", ""): c}

    conflict = find_conflict([first, second])

    assert dict(conflict.unconflicted) == {("x", ""): a}
    assert conflict.conflicted == {("y", ""): {b}, ("z", ""): {c}}
    assert find_conflict([second, first]) == conflict
