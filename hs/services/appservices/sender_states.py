"""The states of the duty that sends to application services, as a table.

A reading begins with what is stored, and stores events together with the position up to which the
stream of events was read. A run begins the next reading when its queue has overflown. While a write
is under way it is not known what is stored; if it does not succeed, nothing more may be written in
this run, and only the next run, which reads what is stored, may go on.
"""

import enum
from collections.abc import Mapping
from typing import Final

from hs.lib.state_machine import StateMachine


class SenderState(enum.Enum):
    """What the duty is doing."""

    STOPPED = enum.auto()  # no run; rows of the feed are ignored
    CATCHING_UP = enum.auto()  # reads what was stored before the reading; rows are queued
    STORING_PAGE = enum.auto()  # stores what it has found while catching up
    FOLLOWING = enum.auto()  # takes rows out of the queue
    STORING = enum.auto()  # stores what it has found in the rows
    IN_DOUBT = enum.auto()  # does not know what is stored, and may not store anything


class SenderEvent(enum.Enum):
    """What happens to the duty."""

    RUN_BEGAN = enum.auto()
    CAUGHT_UP = enum.auto()
    QUEUE_OVERFLOWED = enum.auto()  # so the next reading begins
    WRITE_BEGAN = enum.auto()
    WRITE_SUCCEEDED = enum.auto()
    WRITE_FAILED = enum.auto()  # or was cancelled, or refused because another process has read on
    RUN_ENDED = enum.auto()


_S, _E = SenderState, SenderEvent

TRANSITIONS: Final[Mapping[SenderState, Mapping[SenderEvent, SenderState]]] = {
    _S.STOPPED: {
        _E.RUN_BEGAN: _S.CATCHING_UP,
    },
    _S.CATCHING_UP: {
        _E.WRITE_BEGAN: _S.STORING_PAGE,
        _E.CAUGHT_UP: _S.FOLLOWING,
        _E.RUN_ENDED: _S.STOPPED,
    },
    _S.STORING_PAGE: {
        _E.WRITE_SUCCEEDED: _S.CATCHING_UP,
        _E.WRITE_FAILED: _S.IN_DOUBT,
    },
    _S.FOLLOWING: {
        _E.WRITE_BEGAN: _S.STORING,
        _E.QUEUE_OVERFLOWED: _S.CATCHING_UP,
        _E.RUN_ENDED: _S.STOPPED,
    },
    _S.STORING: {
        _E.WRITE_SUCCEEDED: _S.FOLLOWING,
        _E.WRITE_FAILED: _S.IN_DOUBT,
    },
    _S.IN_DOUBT: {
        _E.RUN_ENDED: _S.STOPPED,
    },
}
"""The next state, by state and event; an event that is missing cannot happen in that state."""


class SenderStates:
    """The present state; every change goes through the table."""

    def __init__(self, state: SenderState = SenderState.STOPPED) -> None:
        self._machine = StateMachine(TRANSITIONS, state)

    @property
    def state(self) -> SenderState:
        """The present state."""
        return self._machine.state

    def note(self, event: SenderEvent) -> None:
        """Move to the next state. Raises: ImpossibleTransition; the state then stays."""
        self._machine.handle(event)

    @property
    def may_store_at_end(self) -> bool:
        """Whether a run that ends now may store what it has read.

        A run that ends while it catches up has stored its pages, and not yet read the queue.
        """
        return self.state is SenderState.FOLLOWING
