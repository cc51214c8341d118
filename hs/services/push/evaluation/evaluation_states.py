"""The states of the evaluation duty, and the events that change them.

The state decides what happens to a row of the events stream when the feed delivers it: in
FOLLOWING it is evaluated within the delivery, in every other state it is queued.

    STARTING -- LOADED --> CATCHING_UP -- CAUGHT_UP --> DRAINING -- DRAINED --> FOLLOWING
                           CATCHING_UP <- OVERFLOWN --- DRAINING <- ROWS_LEFT -- FOLLOWING
                           CATCHING_UP, DRAINING, FOLLOWING ------- STOPPED ---> STOPPED

When the queue overflows its rows are dropped, and what they told of is read from the tables.
"""

import enum
from typing import Final

from hs.lib.state_machine import Transitions


class EvaluationState(enum.Enum):
    """What the evaluation duty is doing."""

    STARTING = "starting"  # push rules, ignored users and pushers are being loaded
    CATCHING_UP = "catching up"  # events stored before are evaluated from the tables
    DRAINING = "draining"  # queued rows are evaluated; what they need is read from the database
    FOLLOWING = "following"  # the queue is empty, every delivered row has been evaluated
    STOPPED = "stopped"


class EvaluationEvent(enum.Enum):
    """What changes the state of the evaluation duty."""

    LOADED = "loaded"
    CAUGHT_UP = "caught up"
    DRAINED = "drained"
    OVERFLOWN = "overflown"  # more rows were waiting than the queue may hold
    ROWS_LEFT = "rows left"  # a row needs something that is not in memory, or there are many rows
    STOPPED = "stopped"


_S, _E = EvaluationState, EvaluationEvent

TRANSITIONS: Final[Transitions[EvaluationState, EvaluationEvent]] = {
    _S.STARTING: {_E.LOADED: _S.CATCHING_UP},
    _S.CATCHING_UP: {_E.CAUGHT_UP: _S.DRAINING, _E.STOPPED: _S.STOPPED},
    _S.DRAINING: {
        _E.DRAINED: _S.FOLLOWING,
        _E.OVERFLOWN: _S.CATCHING_UP,
        _E.STOPPED: _S.STOPPED,
    },
    _S.FOLLOWING: {_E.ROWS_LEFT: _S.DRAINING, _E.STOPPED: _S.STOPPED},
    _S.STOPPED: {},
}
