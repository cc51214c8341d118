"""The table of states of the duty that sends to application services."""

import pytest

from hs.lib.state_machine import ImpossibleTransition
from hs.services.appservices.sender_states import (
    TRANSITIONS,
    SenderEvent,
    SenderState,
    SenderStates,
)

ALLOWED = [(state, event) for state, after in TRANSITIONS.items() for event in after]
FORBIDDEN = [
    (state, event)
    for state in SenderState
    for event in SenderEvent
    if (state, event) not in ALLOWED
]


def test_each_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(SenderState)


@pytest.mark.parametrize(("state", "event"), ALLOWED)
def test_allowed_event_leads_to_the_state_of_the_table(
    state: SenderState, event: SenderEvent
) -> None:
    states = SenderStates(state)

    states.note(event)

    assert states.state is TRANSITIONS[state][event]


@pytest.mark.parametrize(("state", "event"), FORBIDDEN)
def test_forbidden_event_raises_and_leaves_the_state(
    state: SenderState, event: SenderEvent
) -> None:
    states = SenderStates(state)

    with pytest.raises(ImpossibleTransition, match=f"{event} is impossible in state {state}"):
        states.note(event)

    assert states.state is state


def test_all_states_can_be_reached_and_left_for_the_next_run() -> None:
    reached = _reachable(SenderState.STOPPED)

    assert reached == set(SenderState)
    assert all(SenderState.STOPPED in _reachable(state) for state in SenderState)


def test_nothing_is_stored_after_a_write_that_did_not_succeed() -> None:
    states = SenderStates()
    for event in (
        SenderEvent.RUN_BEGAN,
        SenderEvent.CAUGHT_UP,
        SenderEvent.WRITE_BEGAN,
        SenderEvent.WRITE_FAILED,
    ):
        states.note(event)

    assert not states.may_store_at_end
    with pytest.raises(ImpossibleTransition):
        states.note(SenderEvent.WRITE_BEGAN)


def test_a_run_stores_at_its_end_only_what_it_has_followed() -> None:
    may_store = {state for state in SenderState if SenderStates(state).may_store_at_end}

    assert may_store == {SenderState.FOLLOWING}


def _reachable(start: SenderState) -> set[SenderState]:
    reached, new = set[SenderState](), {start}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state].values()} - reached
    return reached
