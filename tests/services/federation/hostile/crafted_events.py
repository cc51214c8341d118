"""Events that no honest server creates, correctly signed."""

from collections.abc import Sequence
from typing import Any

from hs.core.canonical_json import JsonObject
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.events.hashes import content_hash, essential_bytes
from hs.core.ids import EventID, ServerName
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import room_version
from tests.support.peers import signer_of


def signed_pdu(pdu: JsonObject, version: str, *servers: ServerName) -> JsonObject:
    """Return a PDU with new hash and signatures of these servers."""
    rules = room_version(version)
    bare = {key: pdu[key] for key in pdu if key not in ("hashes", "signatures", "unsigned")}
    hashed = {**bare, "hashes": {"sha256": encode_base64(content_hash(bare, rules))}}
    message = essential_bytes(hashed, rules)
    signers = [signer_of(server) for server in servers]
    signatures = {s.server_name: {s.key.key_id: s.key.sign(message)} for s in signers}
    return {**hashed, "signatures": signatures}


def changed_event(event: Event, *servers: ServerName, **changes: Any) -> Event:
    """Return an event with changed fields, signed again by these servers."""
    version = event.rules.identifier
    pdu = signed_pdu({**event.pdu, **changes}, version, *servers)
    return parse_pdu(pdu, event.rules)


def pairs(event_ids: Sequence[EventID]) -> list[Any]:
    """Return references to events as in the first two room versions."""
    return [[event_id, {"sha256": "x"}] for event_id in event_ids]
