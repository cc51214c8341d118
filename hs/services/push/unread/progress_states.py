"""What a process knows of how far the results of the evaluation are stored, as states.

The state decides whether the evaluating process has to be asked before something is counted, and
whether what was counted is exact.

    state     ANSWERED  UNREACHABLE  EXPIRED   RESET
    UNKNOWN   KNOWN     GUESSED      -         UNKNOWN
    KNOWN     KNOWN     GUESSED      -         UNKNOWN
    GUESSED   KNOWN*    GUESSED      EXPIRED   UNKNOWN
    EXPIRED   KNOWN*    GUESSED      -         UNKNOWN

Several answers wait at the same time, and each may ask; so an answer or a failure may arrive in
every state. With * everything that was derived from the guess has to be dropped. So it has if a
guess is beyond what was known before: then results are stored that did not arrive here.
"""

import enum
from typing import Final

from hs.lib.state_machine import Transitions


class ProgressState(enum.Enum):
    """What is known of the stored progress."""

    # At the start, and after the evaluation began anew: nothing is held in memory.
    UNKNOWN = "unknown"
    # The evaluating process answered, and the feed brought everything that it announced since.
    KNOWN = "known"
    # The evaluating process could not be reached, so the position in the database is used.
    # Results that it announced before this process listened, and has not stored, are missing.
    GUESSED = "guessed"
    # As GUESSED, but the evaluating process is asked again when something is counted.
    EXPIRED = "expired"


class ProgressEvent(enum.Enum):
    """What changes the knowledge of the stored progress."""

    ANSWERED = "answered"  # the evaluating process told its progress
    UNREACHABLE = "unreachable"  # it could not be asked, and the database was read instead
    EXPIRED = "expired"  # the guess has been used for long enough
    RESET = "reset"  # the stream `unread` began anew


_S, _E = ProgressState, ProgressEvent
_ALWAYS: Final = {_E.ANSWERED: _S.KNOWN, _E.UNREACHABLE: _S.GUESSED, _E.RESET: _S.UNKNOWN}

TRANSITIONS: Final[Transitions[ProgressState, ProgressEvent]] = {
    _S.UNKNOWN: _ALWAYS,
    _S.KNOWN: _ALWAYS,
    _S.GUESSED: {**_ALWAYS, _E.EXPIRED: _S.EXPIRED},
    _S.EXPIRED: _ALWAYS,
}
