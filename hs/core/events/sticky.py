"""Sticky events: how long an event is delivered whatever the limits of timelines are.

Spec: MSC4354.
"""

from collections.abc import Mapping
from typing import Any, Final

from hs.core.errors import InvalidParam
from hs.core.events.event import STICKY_KEY, Event

MAX_STICKY_MS: Final = 3_600_000
_KEY_BYTES: Final = STICKY_KEY.encode()


def check_sticky_duration(duration_ms: int | None) -> None:
    """Raise InvalidParam for a duration that a client must not ask for; None asks for none."""
    if duration_ms is not None and not 0 <= duration_ms <= MAX_STICKY_MS:
        raise InvalidParam(f"sticky_duration_ms must be an integer from 0 to {MAX_STICKY_MS}")


def duration_in(sticky: object) -> int | None:
    """Return the duration (ms) in the top-level `sticky` object; None if it has no valid one."""
    duration_ms = sticky.get("duration_ms") if isinstance(sticky, Mapping) else None
    if type(duration_ms) is not int or duration_ms < 0:
        return None
    return min(duration_ms, MAX_STICKY_MS)


def sticky_field(duration_ms: int) -> dict[str, Any]:
    """Return the top-level `sticky` object of an event."""
    return {"duration_ms": duration_ms}


def sticky_of(event: Event) -> Mapping[str, Any] | None:
    """Return the top-level `sticky` object of an event; None if it makes the event not sticky."""
    # Parsing the event is needed only if its bytes contain the name of the field.
    if _KEY_BYTES not in event.canonical:
        return None
    sticky = event.pdu.get(STICKY_KEY)
    return None if duration_in(sticky) is None else sticky


def sticky_until(event: Event, received_ms: int) -> int:
    """Return the time (ms) until which an event is sticky, 0 if it is not.

    A timestamp in the future does not prolong this: the time begins when the event is received.
    """
    duration_ms = duration_in(sticky_of(event))
    return 0 if duration_ms is None else min(event.origin_server_ts, received_ms) + duration_ms
