"""The event: an immutable value, past its format checks, with its ID and its room's rules."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import RoomVersion


@attrs.frozen(slots=True, eq=False, repr=False)
class Event:
    """One event of a room's graph.

    `pdu` is the signed federation form (with `unsigned` removed), in the format of `rules`;
    whoever holds an Event treats `pdu` and `content` as read-only. `canonical` is the canonical
    JSON of `pdu`: what is stored and sent to other servers.

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
        """Tell whether the event takes part in the room's state."""
        return self.state_key is not None

    @property
    def redacts(self) -> EventID | None:
        """Give the event that this redaction wants gone, wherever its room version keeps it."""
        if self.type != "m.room.redaction":
            return None
        holder = self.content if self.rules.redacts_in_content else self.pdu
        target = holder.get("redacts")
        # The format checks do not cover this field, so it may hold anything.
        if not isinstance(target, str) or not target.startswith("$") or "\0" in target:
            return None
        return EventID(target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and other.event_id == self.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type} {self.state_key!r} by {self.sender}>"
