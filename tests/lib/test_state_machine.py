"""State machines: the table decides, and nothing else changes the state."""

import enum

import pytest

from hs.lib.state_machine import ImpossibleTransition, StateMachine, Transitions


class Door(enum.Enum):
    OPEN = "open"
    SHUT = "shut"


class Use(enum.Enum):
    PULL = "pull"
    PUSH = "push"


DOOR: Transitions[Door, Use] = {
    Door.OPEN: {Use.PUSH: Door.SHUT},
    Door.SHUT: {Use.PULL: Door.OPEN},
}


def test_an_event_leads_to_the_state_in_the_table() -> None:
    door = StateMachine(DOOR, Door.OPEN)

    assert door.handle(Use.PUSH) is Door.SHUT
    assert door.state is Door.SHUT


def test_an_event_that_the_table_does_not_allow_is_refused() -> None:
    door = StateMachine(DOOR, Door.OPEN)

    with pytest.raises(ImpossibleTransition, match=r"Use\.PULL is impossible in state Door\.OPEN"):
        door.handle(Use.PULL)
    assert door.state is Door.OPEN
