"""The hashes of events: over the content, and over the essential fields, which make the event ID.

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
    """Hash the complete event, but for `hashes`, `signatures` and `unsigned`."""
    hashed = {key: pdu[key] for key in pdu if key not in _NOT_HASHED}
    return hashlib.sha256(encode_pdu(hashed, rules)).digest()


def essential_bytes(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Give what servers sign and what the reference hash is over."""
    essential = redact_pdu(pdu, rules)
    essential.pop("signatures", None)
    essential.pop("unsigned", None)
    return encode_pdu(essential, rules)


def reference_hash(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Hash the essential fields of an event."""
    return hashlib.sha256(essential_bytes(pdu, rules)).digest()


def event_id_from(digest: bytes, rules: RoomVersion) -> EventID:
    """Make the event ID of a reference hash, where the room version computes event IDs."""
    assert rules.event_id_is_hash
    if rules.event_id_format is EventIdFormat.HASH:
        return EventID(f"${encode_base64(digest)}")
    return EventID(f"${encode_urlsafe_base64(digest)}")


def event_id_of(pdu: Mapping[str, Any], rules: RoomVersion) -> EventID:
    """Compute the ID of a PDU, or read it where the sending server chose it.

    Raises: InvalidEvent.
    """
    if rules.event_id_is_hash:
        return event_id_from(reference_hash(pdu, rules), rules)
    try:
        return parse_event_id(pdu.get("event_id"))
    except InvalidParam as fault:
        raise InvalidEvent(f"event_id: {fault.message}") from fault


def has_right_content_hash(event: Event) -> bool:
    """Tell whether an event is whole: not redacted, and not changed on its way."""
    hashes = event.pdu.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    if not isinstance(claimed, str):
        return False
    try:
        digest = decode_base64(claimed)
    except ValueError:
        return False
    return digest == content_hash(event.pdu, event.rules)


def trusted_part(event: Event) -> Event:
    """Give the event, or its redacted form if its content hash does not match.

    Spec: server-server API, Checks performed on receipt of a PDU, step 3.
    """
    return event if has_right_content_hash(event) else redact(event)
