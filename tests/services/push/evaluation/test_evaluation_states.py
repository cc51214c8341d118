"""The states of the evaluation duty: every transition, and every one that is impossible."""

import pytest

from hs.lib.state_machine import ImpossibleTransition, StateMachine
from hs.services.push.evaluation.evaluation_states import (
    TRANSITIONS,
    EvaluationEvent,
    EvaluationState,
)

S, E = EvaluationState, EvaluationEvent
ALLOWED = {
    (S.STARTING, E.LOADED): S.CATCHING_UP,
    (S.CATCHING_UP, E.CAUGHT_UP): S.DRAINING,
    (S.CATCHING_UP, E.STOPPED): S.STOPPED,
    (S.DRAINING, E.DRAINED): S.FOLLOWING,
    (S.DRAINING, E.OVERFLOWN): S.CATCHING_UP,
    (S.DRAINING, E.STOPPED): S.STOPPED,
    (S.FOLLOWING, E.ROWS_LEFT): S.DRAINING,
    (S.FOLLOWING, E.STOPPED): S.STOPPED,
}


@pytest.mark.parametrize("event", EvaluationEvent)
@pytest.mark.parametrize("state", EvaluationState)
def test_only_these_transitions_are_possible(
    state: EvaluationState, event: EvaluationEvent
) -> None:
    machine = StateMachine(TRANSITIONS, state)

    if (state, event) in ALLOWED:
        assert machine.handle(event) is ALLOWED[state, event]
    else:
        with pytest.raises(ImpossibleTransition):
            machine.handle(event)
        assert machine.state is state
