"""Attempts of malicious servers to reset the state of a room through state resolution.

Each gives the resolver states that an attacker may produce: forks from long ago, times and depths
that are chosen freely, and states that lack entries. In version 1 the deepest of the allowed events
wins, so there depth helps an attacker who still has the power; nothing gives power.
"""

import itertools

import pytest
from immutables import Map

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.resolve import resolve
from hs.core.versions import ROOM_VERSIONS
from tests.core.stateres.test_resolution import BOB, CAROL, fork, member, topic
from tests.support.inputs.forked_rooms import ADMIN, ForkedRoom, State, new_room, power_levels

VERSIONS = ("1", "2", "6", "11", "12")
LATER = VERSIONS[1:]
TIMES = (-(2**53), 0, 10, 2**53)


def resolved(room: ForkedRoom, *states: State) -> Map[StateKey, EventID]:
    """Return the resolution, which must not depend on the order of the states."""
    results = {resolve(room.rules, each, room.events) for each in itertools.permutations(states)}
    (result,) = results
    return result


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize("time", TIMES)
def test_demoted_user_changes_nothing_by_a_fork_from_before(version: str, time: int) -> None:
    room = new_room(ROOM_VERSIONS[version])
    demoted = fork(room, (ADMIN, topic("true"), 20), (ADMIN, power_levels(room, {ADMIN: 100}), 21))
    forged = fork(room, (BOB, topic("false"), time), (BOB, member(CAROL, "leave"), time))

    result = resolved(room, room.states[demoted], room.states[forged])

    assert result["m.room.topic", ""] == room.states[demoted]["m.room.topic", ""]
    assert result["m.room.member", CAROL] == room.states[5]["m.room.member", CAROL]


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize("time", TIMES)
def test_banned_user_does_not_come_back_by_an_old_join(version: str, time: int) -> None:
    room = new_room(ROOM_VERSIONS[version])
    banned = fork(room, (ADMIN, member(CAROL, "ban"), 20))
    joined = fork(
        room, (CAROL, member(CAROL, "leave"), time), (CAROL, member(CAROL, "join"), time + 1)
    )

    result = resolved(room, room.states[banned], room.states[joined])

    assert result["m.room.member", CAROL] == room.tips[banned]


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize(
    "key", [("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", ADMIN)]
)
def test_state_that_lacks_an_entry_does_not_remove_it(version: str, key: StateKey) -> None:
    room = new_room(ROOM_VERSIONS[version])
    honest = room.states[fork(room, (ADMIN, topic("true"), 20))]

    assert resolved(room, honest, honest.delete(key)) == honest


@pytest.mark.parametrize("version", VERSIONS)
def test_empty_state_resets_nothing(version: str) -> None:
    room = new_room(ROOM_VERSIONS[version])
    honest = room.states[fork(room, (ADMIN, topic("true"), 20))]

    assert resolved(room, honest, Map()) == honest


@pytest.mark.parametrize("version", LATER)
def test_states_of_the_past_do_not_bring_it_back(version: str) -> None:
    room = new_room(ROOM_VERSIONS[version])
    last = fork(
        room,
        (ADMIN, topic("first"), 20),
        (ADMIN, power_levels(room, {ADMIN: 100}), 21),
        (ADMIN, topic("second"), 22),
        (ADMIN, member(BOB, "ban"), 23),
        (ADMIN, ("m.room.join_rules", "", {"join_rule": "invite"}), 24),
    )
    honest = room.states[last]

    # Each was the state once; a server that lies about gaps may present any of them. By those from
    # before a join it could undo the join: the algorithm checks it with the present join rules.
    for number in range(5, last):
        assert resolved(room, honest, room.states[number]) == honest


@pytest.mark.parametrize("version", LATER)
def test_many_forks_of_an_attacker_do_not_outvote_the_room(version: str) -> None:
    room = new_room(ROOM_VERSIONS[version])
    honest = room.states[fork(room, (ADMIN, member(BOB, "ban"), 50), (ADMIN, topic("true"), 51))]
    forks = [
        room.states[fork(room, (BOB, topic(f"false {number}"), number))] for number in range(4)
    ]

    assert resolved(room, honest, *forks) == honest


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_gains_power_by_conflicts(version: str) -> None:
    room = new_room(ROOM_VERSIONS[version])
    honest = room.states[fork(room, (ADMIN, power_levels(room, {ADMIN: 100}), 20))]
    # The best that Bob's power allows, in a deep fork.
    levels = power_levels(room, {ADMIN: 100, BOB: 50, CAROL: 50})
    steps = [(BOB, topic(str(number)), number) for number in range(10)]
    forged = room.states[fork(room, *steps, (BOB, levels, 0))]

    result = resolved(room, honest, forged)

    assert result["m.room.power_levels", ""] in {
        state["m.room.power_levels", ""]
        for state in ((honest, forged) if version == "1" else (honest,))
    }
