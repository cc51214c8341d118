"""The parts of rendered events that are the same for all clients."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.events.event import RAW_EVENT, STICKY_KEY, Event, RawEvent
from hs.core.events.sticky import duration_in, sticky_of
from hs.core.ids import EventID
from hs.services.rooms.store.sticky_events import StickyEvents
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.rooms.stored_pdus import expand_pdu
from hs.storage.sync.room_changes import TimelineRow

_OVERHEAD_BYTES: Final = 400

MEMBERSHIPS: Final[Mapping[str | None, bytes]] = {
    name: b',"membership":"' + name.encode() + b'"'
    for name in ("join", "invite", "leave", "ban", "knock")
}
"""The field with the membership of a viewer, for the known memberships."""


@attrs.define(eq=False)
class EventPrefix:
    """The parts of a rendered event that are the same for all clients.

    `body` is the JSON without the closing brace, `room` the `room_id` field; `because` and
    `previous` belong in `unsigned`, and so does the age since `sent_ms`. `previous` is None until
    it is needed. `sticky_until` is the time (ms) until which the event is sticky, by its own
    fields; 0 if it is not.
    """

    sent_ms: int
    body: bytes
    room: bytes
    because: bytes
    previous: bytes | None
    sticky_until: int = 0

    def content(self) -> Mapping[str, Any]:
        """Return the content, of a redacted event what the redaction left."""
        content: Mapping[str, Any] = orjson.loads(self.body + b"}")["content"]
        return content


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
    sticky = sticky_of(event)
    if sticky is not None:
        fields[STICKY_KEY] = sticky
    return EventPrefix(
        event.origin_server_ts,
        orjson.dumps(fields)[:-1],
        b',"room_id":' + orjson.dumps(event.room_id),
        because,
        None if event.state_key is not None else b"",
        sticky_until=0 if sticky is None else event.origin_server_ts + (duration_in(sticky) or 0),
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
    sticky_until = 0
    sticky = bytes(raw.sticky)
    if sticky:
        duration_ms = duration_in(orjson.loads(sticky))
        if duration_ms is not None:
            body += b',"%b":%b' % (STICKY_KEY.encode(), sticky)
            sticky_until = sent_ms + duration_ms
    if not state_key:
        return EventPrefix(sent_ms, body, room, b"", b"", sticky_until=sticky_until)
    body += b',"state_key":' + state_key
    return EventPrefix(sent_ms, body, room, b"", None, sticky_until=sticky_until)


def prefix_of_unredacted(event: Event) -> EventPrefix:
    """Return what `prefix_of` does, of an event that is not redacted."""
    if event.type == event_types.REDACTION:
        return prefix_of(event, b"")
    raw = RAW_EVENT.decode(event.canonical)
    return prefix_of_raw(event.event_id, raw, orjson.dumps(event.room_id))


def redacted_because(redaction: StoredEvent) -> bytes:
    """Return the field with the redaction of an event, and its ID as Synapse shows it."""
    prefix = prefix_of(redaction.effective_event, b"")
    redaction_id = orjson.dumps(redaction.event_id)
    fields = b',"redacted_because":%b%b,"unsigned":{}},"redacted_by":%b'
    return fields % (prefix.body, prefix.room, redaction_id)


def previous_content(previous: StoredEvent) -> bytes:
    """Return the fields that tell which event a state event replaced."""
    return b',"prev_content":%b,"replaces_state":%b' % (
        orjson.dumps(previous.effective_event.content),
        orjson.dumps(previous.event_id),
    )


def state_json(prefix: EventPrefix, now_ms: int, room_id: bool, membership: bytes = b"") -> bytes:
    """Return a state event as JSON, without `prev_content`, at a time.

    `membership` is a member of `unsigned`, if the event has it.
    """
    return b'%b%b,"unsigned":{"age":%d%b%b%b}}' % (
        prefix.body,
        prefix.room if room_id else b"",
        now_ms - prefix.sent_ms,
        membership,
        prefix.because,
        remaining_json(prefix, now_ms) if prefix.sticky_until > now_ms else b"",
    )


def membership_json(membership: str | None) -> bytes:
    """Return the field with the membership of a viewer at an event."""
    if membership is None:
        return b""
    known = MEMBERSHIPS.get(membership)
    return known if known is not None else b',"membership":' + orjson.dumps(membership)


def messages_json(
    rows: Iterable[TimelineRow],
    now_ms: int,
    extras: Mapping[EventID, bytes],
    sticky: StickyEvents,
) -> list[bytes]:
    """Return messages as a joined member sees them at a time, without `room_id`.

    `extras` are further fields of `unsigned`.
    """
    decode, dumps = RAW_EVENT.decode, orjson.dumps
    rendered: list[bytes] = []
    for row in rows:
        raw = decode(expand_pdu(row.pdu))
        event_id, sent_ms = row.event_id, row.origin_server_ts
        extra = extras.get(event_id, b"") if extras else b""
        if bytes(raw.sticky):
            rendered.append(_sticky_message(row, raw, now_ms, extra, sticky))
            continue
        rendered.append(
            b'{"type":%b,"sender":%b,"content":%b,"event_id":%b,"origin_server_ts":%d,'
            b'"unsigned":{"age":%d,"membership":"join"%b}}'
            % (
                raw.type,
                raw.sender,
                raw.content,
                dumps(event_id),
                sent_ms,
                now_ms - sent_ms,
                extra,
            )
        )
    return rendered


def _sticky_message(
    row: TimelineRow, raw: RawEvent, now_ms: int, extra: bytes, sticky: StickyEvents
) -> bytes:
    prefix = prefix_of_raw(row.event_id, raw, b"")
    until_ms = prefix.sticky_until
    if until_ms:
        prefix.sticky_until = sticky.until_by(row.event_id, row.origin_server_ts, until_ms)
    return state_json(prefix, now_ms, False, MEMBERSHIPS["join"] + extra)


def remaining_json(prefix: EventPrefix, now_ms: int) -> bytes:
    """Return the member of `unsigned` that says how long an event will be sticky."""
    return b',"msc4354_sticky_duration_ttl_ms":%d' % (prefix.sticky_until - now_ms)


def _content(event: Event) -> Mapping[str, Any] | orjson.Fragment:
    # Spec, room version 11: clients get `redacts` in the content of older events as well.
    if event.type == event_types.REDACTION and not event.rules.redacts_in_content:
        redacts = event.redacts
        if redacts is not None:
            return {**event.content, "redacts": redacts}
    return orjson.Fragment(event.content_json())
