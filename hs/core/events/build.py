"""Making this server's own events: hashed, signed, and small enough.

Spec: server-server API, Adding hashes and signatures to outgoing events.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject, check_canonical
from hs.core.errors import InvalidEvent, TooLarge
from hs.core.events import types
from hs.core.events.encoding import encode_pdu
from hs.core.events.event import Event
from hs.core.events.format import MAX_EVENT_BYTES, parse_pdu, trusted_event
from hs.core.events.hashes import content_hash, essential_bytes, event_id_from
from hs.core.ids import MAX_ID_BYTES, EventID, RoomID, UserID
from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import with_signature
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import RoomVersion


@attrs.frozen
class EventDraft:
    """What someone wants to say in a room, before it has a place in the room's graph.

    `redacts` is put where the room version keeps it.
    """

    type: str
    sender: UserID
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: EventID | None = None


@attrs.frozen
class GraphPlace:
    """Where an event stands in its room's graph.

    `room_id` is None for the create event of a room whose ID is that event's hash. Rooms of
    versions 1 and 2 need the ID of the new event, and of each event referred to its
    reference hash in unpadded base64.
    """

    room_id: RoomID | None
    prev_events: Sequence[EventID]
    auth_events: Sequence[EventID]
    depth: int
    origin_server_ts: int
    event_id: EventID | None = None
    reference_hashes: Mapping[EventID, str] = attrs.field(factory=dict)


def build_event(draft: EventDraft, place: GraphPlace, rules: RoomVersion, signer: Signer) -> Event:
    """Make a signed event of a draft.

    Raises: BadJson, if the content is not the JSON that the room version demands; TooLarge.
    """
    if rules.strict_canonical_json:
        check_canonical(draft.content)
    pdu: JsonObject = {
        "type": draft.type,
        "sender": draft.sender,
        "content": draft.content,
        "depth": place.depth,
        "origin_server_ts": place.origin_server_ts,
        "prev_events": _references(place.prev_events, place, rules),
        "auth_events": _references(place.auth_events, place, rules),
    }
    if place.room_id is not None:
        pdu["room_id"] = place.room_id
    if draft.state_key is not None:
        pdu["state_key"] = draft.state_key
    if draft.redacts is not None:
        if rules.redacts_in_content:
            pdu["content"] = {**draft.content, "redacts": draft.redacts}
        else:
            pdu["redacts"] = draft.redacts
    if not rules.event_id_is_hash:
        assert place.event_id is not None
        pdu["event_id"] = place.event_id
        pdu["origin"] = signer.server_name
    assert place.room_id is not None or (rules.room_id_is_create_hash and _is_create(pdu))
    _check_sizes(draft)
    return _sign(pdu, rules, signer)


def sign_template(template: Mapping[str, Any], rules: RoomVersion, signer: Signer) -> Event:
    """Make a signed event of a template that a resident server gave, such as of `make_join`.

    Raises: InvalidEvent, if it breaks the event format; BadJson, TooLarge.
    """
    dropped = ("hashes", "signatures", "unsigned")
    pdu = {key: template[key] for key in template if key not in dropped}
    if rules.event_id_is_hash:
        pdu.pop("event_id", None)
    # The whole event passes the checks that peers will make, before anything is signed.
    parse_pdu({**pdu, "hashes": {}, "signatures": {}}, rules)
    return _sign(pdu, rules, signer)


def countersign(event: Event, signer: Signer) -> Event:
    """Add this server's signature to another server's event, such as an invite or a join."""
    signature = signer.key.sign(essential_bytes(event.pdu, event.rules))
    return with_signatures(event, with_signature(event.pdu.get("signatures"), signer, signature))


def with_signatures(event: Event, signatures: Mapping[str, Any]) -> Event:
    """Give the same event with another `signatures` object.

    Raises: InvalidEvent, if that makes it too large.
    """
    pdu = {**event.pdu, "signatures": dict(signatures)}
    canonical = encode_pdu(pdu, event.rules)
    if len(canonical) > MAX_EVENT_BYTES:
        raise InvalidEvent("The event is larger than 65536 bytes")
    return attrs.evolve(event, pdu=pdu, canonical=canonical)


def _sign(pdu: JsonObject, rules: RoomVersion, signer: Signer) -> Event:
    pdu["hashes"] = {"sha256": encode_base64(content_hash(pdu, rules))}
    # The bytes that are signed are also those of the reference hash.
    essential = essential_bytes(pdu, rules)
    signature = signer.key.sign(essential)
    pdu["signatures"] = {signer.server_name: {signer.key.key_id: signature}}
    canonical = encode_pdu(pdu, rules)
    if len(canonical) > MAX_EVENT_BYTES:
        raise TooLarge("The event is larger than 65536 bytes")
    if rules.event_id_is_hash:
        event_id = event_id_from(hashlib.sha256(essential).digest(), rules)
    else:
        event_id = pdu["event_id"]
    return trusted_event(event_id, pdu, canonical, rules)


def _references(event_ids: Sequence[EventID], place: GraphPlace, rules: RoomVersion) -> list[Any]:
    if rules.event_id_is_hash:
        return list(event_ids)
    return [[found, {"sha256": place.reference_hashes[found]}] for found in event_ids]


def _is_create(pdu: Mapping[str, Any]) -> bool:
    return bool(pdu["type"] == types.CREATE)


def _check_sizes(draft: EventDraft) -> None:
    if len(draft.type) * 4 > MAX_ID_BYTES and len(draft.type.encode()) > MAX_ID_BYTES:
        raise TooLarge("The event's type is longer than 255 bytes")
    state_key = draft.state_key or ""
    if len(state_key) * 4 > MAX_ID_BYTES and len(state_key.encode()) > MAX_ID_BYTES:
        raise TooLarge("The event's state key is longer than 255 bytes")
