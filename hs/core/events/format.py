"""Parsing of events: PDUs of other servers with full format checks, and stored events without.

Spec: rooms/, Event format; client-server API, Size limits.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hs.core.canonical_json import MAX_INTEGER
from hs.core.errors import BadJson, InvalidEvent, InvalidEventJson, InvalidParam
from hs.core.events import types
from hs.core.events.encoding import check_pdu_json, encode_pdu
from hs.core.events.event import Event, reference_ids, room_id_of_create
from hs.core.events.hashes import event_id_of
from hs.core.ids import (
    MAX_ID_BYTES,
    EventID,
    RoomID,
    parse_event_id,
    parse_room_id,
    parse_user_id,
)
from hs.core.versions import RoomVersion

MAX_EVENT_BYTES = 65536
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10
MAX_OLD_REFERENCES = 1000  # of events from before those limits

_MAX_INT64 = 2**63 - 1

T = TypeVar("T")


def parse_pdu(pdu: object, rules: RoomVersion) -> Event:
    """Parse a PDU by its room version's event format; hashes and signatures are not verified.

    Raises: InvalidEvent.
    """
    return _parse(pdu, rules, MAX_PREV_EVENTS, MAX_AUTH_EVENTS)


def parse_old_pdu(pdu: object, rules: RoomVersion) -> Event:
    """Parse a PDU like `parse_pdu`, without the limits that events of the past may exceed.

    Spec: server-server API, GET /backfill/{roomId}. Raises: InvalidEvent.
    """
    return _parse(pdu, rules, MAX_OLD_REFERENCES, MAX_OLD_REFERENCES)


def _parse(pdu: object, rules: RoomVersion, most_prev: int, most_auth: int) -> Event:
    if not isinstance(pdu, dict):
        raise InvalidEvent("An event must be a JSON object")
    signed = {key: pdu[key] for key in pdu if key != "unsigned"}
    try:
        check_pdu_json(signed, rules)
        canonical = encode_pdu(signed, rules)
    except BadJson as fault:
        raise InvalidEventJson(fault.message) from fault
    if len(canonical) > MAX_EVENT_BYTES:
        raise InvalidEvent("The event must be at most 65536 bytes long")
    _check_hashes(signed)
    sender = _identifier(signed, "sender", parse_user_id)
    event_type = _bounded_text(signed, "type")
    state_key = _bounded_text(signed, "state_key") if "state_key" in signed else None
    content = signed.get("content")
    if not isinstance(content, dict):
        raise InvalidEvent("content must be an object")
    event_id = event_id_of(signed, rules)
    if event_type == types.CREATE and rules.room_id_is_create_hash:
        room_id = room_id_of_create(event_id)
    else:
        room_id = _identifier(signed, "room_id", parse_room_id)
    most = MAX_INTEGER if rules.strict_canonical_json else _MAX_INT64
    return Event(
        event_id=event_id,
        room_id=room_id,
        type=event_type,
        sender=sender,
        state_key=state_key,
        content=content,
        depth=_integer(signed, "depth", 0, most),
        origin_server_ts=_integer(signed, "origin_server_ts", -most, most),
        prev_events=_references(signed, "prev_events", most_prev, rules),
        auth_events=_references(signed, "auth_events", most_auth, rules),
        rules=rules,
        pdu=signed,
        canonical=canonical,
    )


def trusted_event(
    event_id: EventID, pdu: Mapping[str, Any], canonical: bytes, rules: RoomVersion
) -> Event:
    """Construct the Event of a PDU whose format is known to be valid."""
    room_id = pdu.get("room_id")
    if room_id is None or (rules.room_id_is_create_hash and pdu["type"] == types.CREATE):
        room_id = room_id_of_create(event_id)
    return Event(
        event_id=event_id,
        room_id=room_id,
        type=pdu["type"],
        sender=pdu["sender"],
        state_key=pdu.get("state_key"),
        content=pdu["content"],
        depth=pdu["depth"],
        origin_server_ts=pdu["origin_server_ts"],
        prev_events=reference_ids(pdu["prev_events"], rules),
        auth_events=reference_ids(pdu["auth_events"], rules),
        rules=rules,
        pdu=pdu,
        canonical=canonical,
    )


def create_event_id_of(room_id: RoomID) -> EventID:
    """Return the ID of the create event that a room ID belongs to, from room version 12 on."""
    return EventID(f"${room_id[1:]}")


def _references(
    pdu: Mapping[str, Any], field: str, most: int, rules: RoomVersion
) -> tuple[EventID, ...]:
    references = pdu.get(field)
    if not isinstance(references, list) or len(references) > most:
        raise InvalidEvent(f"{field} must be a list of at most {most} entries")
    if not rules.event_id_is_hash and not all(_is_pair(reference) for reference in references):
        raise InvalidEvent(f"{field} must contain pairs of an event ID and its hashes")
    try:
        return tuple(parse_event_id(event_id) for event_id in reference_ids(references, rules))
    except InvalidParam as fault:
        raise InvalidEvent(f"{field}: {fault.message}") from fault


def _is_pair(reference: object) -> bool:
    return isinstance(reference, list) and len(reference) == 2 and isinstance(reference[1], dict)


def _identifier(pdu: Mapping[str, Any], field: str, parse: Callable[[object], T]) -> T:
    try:
        return parse(pdu.get(field))
    except InvalidParam as fault:
        raise InvalidEvent(f"{field}: {fault.message}") from fault


def _bounded_text(pdu: Mapping[str, Any], field: str) -> str:
    text = pdu.get(field)
    if not isinstance(text, str) or len(text.encode()) > MAX_ID_BYTES:
        raise InvalidEvent(f"{field} must be a string of at most 255 bytes")
    if "\0" in text:
        # PostgreSQL cannot store it.
        raise InvalidEvent(f"{field} must not contain NUL")
    return text


def _integer(pdu: Mapping[str, Any], field: str, least: int, most: int) -> int:
    number = pdu.get(field)
    if type(number) is not int or not least <= number <= most:
        raise InvalidEvent(f"{field} must be an integer from {least} to {most}")
    return number


def _check_hashes(pdu: Mapping[str, Any]) -> None:
    if not isinstance(pdu.get("hashes"), dict):
        raise InvalidEvent("hashes must be an object")
    signatures = pdu.get("signatures")
    if not isinstance(signatures, dict) or not all(
        isinstance(entry, dict) for entry in signatures.values()
    ):
        raise InvalidEvent("signatures must be an object of objects")
