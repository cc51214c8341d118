"""The parts of rendered events that are the same for all clients."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.events.event import Event, RawEvent
from hs.core.ids import EventID

_OVERHEAD_BYTES: Final = 400


@attrs.define(eq=False)
class EventPrefix:
    """The parts of a rendered event that are the same for all clients.

    `body` is the JSON without the closing brace, `room` the `room_id` field; `because` and
    `previous` belong in `unsigned`, and so does the age since `sent_ms`. `previous` is None until
    it is needed.
    """

    sent_ms: int
    body: bytes
    room: bytes
    because: bytes
    previous: bytes | None


def weigh_prefix(event_id: EventID, prefix: EventPrefix) -> int:
    """Return the estimated memory use of a cached prefix, in bytes."""
    return _OVERHEAD_BYTES + len(prefix.body) + len(prefix.because)


def prefix_of(event: Event, because: bytes) -> EventPrefix:
    """Return the prefix of an event; `because` is the field with its redaction, if any."""
    fields: JsonObject = {
        "type": event.type,
        "sender": event.sender,
        "content": _content(event),
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
    }
    if event.state_key is not None:
        fields["state_key"] = event.state_key
    redacts = event.redacts
    if redacts is not None:
        fields["redacts"] = redacts
    return EventPrefix(
        event.origin_server_ts,
        orjson.dumps(fields)[:-1],
        b',"room_id":' + orjson.dumps(event.room_id),
        because,
        None if event.state_key is not None else b"",
    )


def prefix_of_raw(event_id: EventID, raw: RawEvent, room_id: bytes) -> EventPrefix:
    """Return what `prefix_of` does, of an event that is neither redacted nor a redaction."""
    sent_ms, state_key = raw.origin_server_ts, bytes(raw.state_key)
    body = b'{"type":%b,"sender":%b,"content":%b,"event_id":%b,"origin_server_ts":%d' % (
        raw.type,
        raw.sender,
        raw.content,
        orjson.dumps(event_id),
        sent_ms,
    )
    room = b',"room_id":' + room_id
    if not state_key:
        return EventPrefix(sent_ms, body, room, b"", b"")
    return EventPrefix(sent_ms, b'%b,"state_key":%b' % (body, state_key), room, b"", None)


def state_json(prefix: EventPrefix, now_ms: int, room_id: bool) -> bytes:
    """Return a state event as JSON, without `prev_content`, at a time."""
    return b'%b%b,"unsigned":{"age":%d%b}}' % (
        prefix.body,
        prefix.room if room_id else b"",
        now_ms - prefix.sent_ms,
        prefix.because,
    )


def _content(event: Event) -> Mapping[str, Any] | orjson.Fragment:
    # Spec, room version 11: clients get `redacts` in the content of older events as well.
    if event.type == event_types.REDACTION and not event.rules.redacts_in_content:
        redacts = event.redacts
        if redacts is not None:
            return {**event.content, "redacts": redacts}
    return orjson.Fragment(event.content_json())
