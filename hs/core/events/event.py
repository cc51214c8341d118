"""The Event: an immutable value that has passed the format checks, with its ID and room version."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import RoomVersion

STICKY_KEY: Final = "msc4354_sticky"

_set = object.__setattr__


class _RawContent(msgspec.Struct):
    content: msgspec.Raw


class _References(msgspec.Struct):
    prev_events: list[Any]
    auth_events: list[Any]


class EventHead(msgspec.Struct):
    """The fields of a stored event that are known without parsing the rest."""

    type: str
    sender: str
    depth: int
    origin_server_ts: int
    room_id: str | None = None
    state_key: str | None = None


class RawEvent(msgspec.Struct, rename={"sticky": STICKY_KEY}):
    """The fields of an event that clients receive, as JSON; empty if the event lacks them."""

    type: msgspec.Raw
    sender: msgspec.Raw
    content: msgspec.Raw
    origin_server_ts: int
    state_key: msgspec.Raw = msgspec.Raw()
    room_id: msgspec.Raw = msgspec.Raw()
    sticky: msgspec.Raw = msgspec.Raw()


_CONTENT: Final = msgspec.json.Decoder(_RawContent)
RAW_EVENT: Final = msgspec.json.Decoder(RawEvent)
_HEAD: Final = msgspec.json.Decoder(EventHead)
_REFERENCES: Final = msgspec.json.Decoder(_References)
_PARSED_LATER: Final = frozenset({"content", "pdu", "prev_events", "auth_events"})


@attrs.frozen(slots=True, eq=False, repr=False)
class Event:
    """An event of a room's graph.

    `pdu` is the event as signed, without `unsigned`, in the format of the room version `rules`;
    `pdu` and `content` must not be modified. `canonical` is `pdu` in canonical JSON, as it is
    stored and sent to other servers. Of an event that was loaded from its stored bytes, `content`,
    `pdu`, `prev_events` and `auth_events` are parsed when they are first read: most loaded events
    are only rendered, and the parsed forms take most of the memory of an event.

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

    def __getattr__(self, name: str) -> Any:
        if name not in _PARSED_LATER:
            raise AttributeError(name)
        if name == "content":
            _set(self, name, orjson.loads(self.content_json()))
        elif name == "pdu":
            _set(self, name, orjson.loads(self.canonical))
        else:
            # The rest is skipped, not parsed: state resolution reads these of thousands of events.
            cited = _REFERENCES.decode(self.canonical)
            _set(self, "prev_events", reference_ids(cited.prev_events, self.rules))
            _set(self, "auth_events", reference_ids(cited.auth_events, self.rules))
        return object.__getattribute__(self, name)

    def content_json(self) -> bytes:
        """Return the content as JSON, without parsing it."""
        return bytes(_CONTENT.decode(self.canonical).content)

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


def load_event(event_id: EventID, canonical: bytes, rules: RoomVersion) -> Event:
    """Return an event that this server stored; it has passed all checks before."""
    head = _HEAD.decode(canonical)
    room_id = head.room_id
    if room_id is None or (rules.room_id_is_create_hash and head.type == event_types.CREATE):
        head.room_id = room_id_of_create(event_id)
    return event_with_head(event_id, canonical, rules, head)


def event_with_head(
    event_id: EventID, canonical: bytes, rules: RoomVersion, head: EventHead
) -> Event:
    """Return what `load_event` does, with a head that the caller has read, `room_id` included."""
    event = Event.__new__(Event)
    _set(event, "event_id", event_id)
    _set(event, "room_id", head.room_id)
    _set(event, "type", head.type)
    _set(event, "sender", head.sender)
    _set(event, "state_key", head.state_key)
    _set(event, "depth", head.depth)
    _set(event, "origin_server_ts", head.origin_server_ts)
    _set(event, "rules", rules)
    _set(event, "canonical", canonical)
    return event


def room_id_of_create(event_id: EventID) -> RoomID:
    """Return the room ID that belongs to a create event, from room version 12 on."""
    return RoomID(f"!{event_id[1:]}")


def reference_ids(references: list[Any], rules: RoomVersion) -> tuple[EventID, ...]:
    """Return the event IDs in a well-formed `prev_events` or `auth_events`."""
    if rules.event_id_is_hash:
        return tuple(references)
    return tuple(reference[0] for reference in references)
