"""What is known of the stored progress: every transition, and every one that is impossible."""

import pytest

from hs.lib.state_machine import ImpossibleTransition, StateMachine
from hs.services.push.unread.progress_states import TRANSITIONS, ProgressEvent, ProgressState

S, E = ProgressState, ProgressEvent
ALLOWED = {
    (S.UNKNOWN, E.ANSWERED): S.KNOWN,
    (S.UNKNOWN, E.UNREACHABLE): S.GUESSED,
    (S.UNKNOWN, E.RESET): S.UNKNOWN,
    (S.KNOWN, E.ANSWERED): S.KNOWN,
    (S.KNOWN, E.UNREACHABLE): S.GUESSED,
    (S.KNOWN, E.RESET): S.UNKNOWN,
    (S.GUESSED, E.ANSWERED): S.KNOWN,
    (S.GUESSED, E.UNREACHABLE): S.GUESSED,
    (S.GUESSED, E.EXPIRED): S.EXPIRED,
    (S.GUESSED, E.RESET): S.UNKNOWN,
    (S.EXPIRED, E.ANSWERED): S.KNOWN,
    (S.EXPIRED, E.UNREACHABLE): S.GUESSED,
    (S.EXPIRED, E.RESET): S.UNKNOWN,
}


@pytest.mark.parametrize("event", ProgressEvent)
@pytest.mark.parametrize("state", ProgressState)
def test_only_these_transitions_are_possible(state: ProgressState, event: ProgressEvent) -> None:
    machine = StateMachine(TRANSITIONS, state)

    if (state, event) in ALLOWED:
        assert machine.handle(event) is ALLOWED[state, event]
    else:
        with pytest.raises(ImpossibleTransition):
            machine.handle(event)
        assert machine.state is state
