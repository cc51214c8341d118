"""The complexity of rooms, by which servers choose which rooms they join.

It is not part of the Matrix specification, but of servers in use.
"""

from typing import Final

_STATE_EVENTS: Final = 500


def complexity_of(state_events: int) -> float:
    """Return the complexity of a room with so many state events."""
    return round(state_events / _STATE_EVENTS, 2)
