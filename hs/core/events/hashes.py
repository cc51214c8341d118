"""Hashes of events: the content hash, and the reference hash from which event IDs are made.

Spec: server-server API, Signing Events.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from hs.core.errors import InvalidEvent, InvalidParam
from hs.core.events.encoding import encode_pdu
from hs.core.events.event import Event
from hs.core.events.redaction import redact, redact_pdu
from hs.core.ids import EventID, parse_event_id
from hs.core.unpadded_base64 import decode_base64, encode_base64, encode_urlsafe_base64
from hs.core.versions import EventIdFormat, RoomVersion

_NOT_HASHED = frozenset({"hashes", "signatures", "unsigned"})


def content_hash(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Return the content hash: over the event without `hashes`, `signatures` and `unsigned`."""
    hashed = pdu
    if not _NOT_HASHED.isdisjoint(pdu):
        hashed = {key: pdu[key] for key in pdu if key not in _NOT_HASHED}
    return hashlib.sha256(encode_pdu(hashed, rules)).digest()


def essential_bytes(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Return the bytes that servers sign and that the reference hash is over."""
    essential = redact_pdu(pdu, rules)
    essential.pop("signatures", None)
    essential.pop("unsigned", None)
    return encode_pdu(essential, rules)


def reference_hash(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Return the reference hash: over the essential fields of the event."""
    return hashlib.sha256(essential_bytes(pdu, rules)).digest()


def event_id_from(digest: bytes, rules: RoomVersion) -> EventID:
    """Return the event ID for a reference hash, from room version 3 on."""
    assert rules.event_id_is_hash
    if rules.event_id_format is EventIdFormat.HASH:
        return EventID(f"${encode_base64(digest)}")
    return EventID(f"${encode_urlsafe_base64(digest)}")


def event_id_of(pdu: Mapping[str, Any], rules: RoomVersion) -> EventID:
    """Return the event ID of a PDU: computed, or read from the PDU in room versions 1 and 2.

    Raises: InvalidEvent.
    """
    if rules.event_id_is_hash:
        return event_id_from(reference_hash(pdu, rules), rules)
    try:
        return parse_event_id(pdu.get("event_id"))
    except InvalidParam as fault:
        raise InvalidEvent(f"event_id: {fault.message}") from fault


def has_valid_content_hash(event: Event) -> bool:
    """Return whether the content hash matches: the event is neither redacted nor altered."""
    hashes = event.pdu.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    if not isinstance(claimed, str):
        return False
    try:
        digest = decode_base64(claimed)
    except ValueError:
        return False
    return digest == content_hash(event.pdu, event.rules)


def redacted_unless_hash_matches(event: Event) -> Event:
    """Return the event, or its redacted form if the content hash does not match.

    Spec: server-server API, Checks performed on receipt of a PDU, step 3.
    """
    return event if has_valid_content_hash(event) else redact(event)
