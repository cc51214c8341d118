"""An event together with what this server knows of it."""

import enum
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.redaction import redact
from hs.core.ids import EventID

# Takes the place of the device ID in the transaction keys of delayed events.
DELAYED_EVENT_DEVICE: Final = "sent later"


class Status(enum.IntEnum):
    """How an event stands in its room; the numbers are those of the events table."""

    ACCEPTED = 0
    SOFT_FAILED = 1  # in the graph, not shown to clients
    REJECTED = 2  # breaks the authorisation rules; kept so that it is not asked for again
    OUTLIER = 3  # known without the state before it


@attrs.define(slots=True, eq=False)
class StoredEvent:
    """One row of the events table; read-only to all but the EventStore.

    `snapshot_id` names the state before the event, None for outliers. `redacted_by` is the
    redaction in force; `event` stays as it was signed, renderers prune it.
    """

    event: Event
    stream_id: int
    writer: str
    snapshot_id: int | None
    status: int = Status.ACCEPTED
    redacted_by: EventID | None = None
    contains_url: bool = False

    @property
    def event_id(self) -> EventID:
        """Give the event's ID."""
        return self.event.event_id

    @property
    def counting(self) -> Event:
        """Give the event as it counts in the room: without what a redaction took."""
        return self.event if self.redacted_by is None else redact(self.event)


def membership_in(stored: StoredEvent | None) -> str:
    """Give the membership that a member event says; whoever has none is out."""
    if stored is None:
        return event_types.LEAVE
    membership = stored.event.content.get("membership")
    return membership if isinstance(membership, str) else event_types.LEAVE
