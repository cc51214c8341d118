"""An event together with its row in the events table."""

import enum
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.redaction import redact
from hs.core.ids import EventID

# Replaces the device ID in the transaction keys of delayed events.
DELAYED_EVENT_DEVICE: Final = "sent later"


class EventStatus(enum.IntEnum):
    """The status of an event in its room; the numbers are those of the events table."""

    ACCEPTED = 0
    SOFT_FAILED = 1  # in the event graph, not sent to clients
    REJECTED = 2  # fails the authorization rules; stored so that it is not fetched again
    OUTLIER = 3  # stored without the state before it
    HIDDEN = 4  # accepted, but not sent to clients


@attrs.define(slots=True, eq=False)
class StoredEvent:
    """An event and its row in the events table; changed by the EventStore only.

    `snapshot_id` names the state before the event, None for outliers. `redacted_by` is the
    redaction that applies to it; `event` stays as it was signed, and readers redact it.
    """

    event: Event
    stream_id: int
    writer: str
    snapshot_id: int | None
    status: int = EventStatus.ACCEPTED
    redacted_by: EventID | None = None
    contains_url: bool = False

    @property
    def event_id(self) -> EventID:
        """The event's ID."""
        return self.event.event_id

    @property
    def effective_event(self) -> Event:
        """The event as the auth rules see it: redacted, if a redaction applies to it."""
        return self.event if self.redacted_by is None else redact(self.event)


def membership_in(stored: StoredEvent | None) -> str:
    """Return the membership in a member event; "leave" for None."""
    if stored is None:
        return event_types.LEAVE
    membership = stored.event.content.get("membership")
    return membership if isinstance(membership, str) else event_types.LEAVE
