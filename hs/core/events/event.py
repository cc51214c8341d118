"""The Event: an immutable value that has passed the format checks, with its ID and room version."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import RoomVersion


@attrs.frozen(slots=True, eq=False, repr=False)
class Event:
    """An event of a room's graph.

    `pdu` is the event as signed, without `unsigned`, in the format of the room version `rules`;
    `pdu` and `content` must not be modified. `canonical` is `pdu` in canonical JSON, as it is
    stored and sent to other servers.

    Spec: rooms/, Event format.
    """

    event_id: EventID
    room_id: RoomID
    type: str
    sender: UserID
    state_key: str | None
    content: Mapping[str, Any]
    depth: int
    origin_server_ts: int
    prev_events: tuple[EventID, ...]
    auth_events: tuple[EventID, ...]
    rules: RoomVersion
    pdu: Mapping[str, Any]
    canonical: bytes

    @property
    def is_state(self) -> bool:
        """Whether this is a state event."""
        return self.state_key is not None

    @property
    def redacts(self) -> EventID | None:
        """The event that this redaction redacts; the room version decides where its ID stands."""
        if self.type != "m.room.redaction":
            return None
        holder = self.content if self.rules.redacts_in_content else self.pdu
        target = holder.get("redacts")
        # The format checks do not cover this field, so it may be of any type.
        if not isinstance(target, str) or not target.startswith("$") or "\0" in target:
            return None
        return EventID(target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and other.event_id == self.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type} {self.state_key!r} by {self.sender}>"
