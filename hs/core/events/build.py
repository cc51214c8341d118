"""Building of this server's own events: format, size limits, hashes and signatures.

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
from hs.core.events.event import STICKY_KEY, Event
from hs.core.events.format import MAX_EVENT_BYTES, parse_pdu, trusted_event
from hs.core.events.hashes import content_hash, essential_bytes, event_id_from
from hs.core.events.sticky import sticky_field
from hs.core.ids import MAX_ID_BYTES, EventID, RoomID, UserID
from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import with_signature
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import RoomVersion


@attrs.frozen
class EventDraft:
    """The contents of an event to be sent, before it has a position in the room's graph.

    `redacts` is placed in the content or at the top level, as the room version requires.
    `sticky_ms` makes the event sticky for that time.
    """

    type: str
    sender: UserID
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: EventID | None = None
    sticky_ms: int | None = None


@attrs.frozen
class GraphPosition:
    """The position of a new event in its room's graph.

    `room_id` is None for a create event from room version 12 on, as the room ID is the hash of that
    event. Room versions 1 and 2 need `event_id`, and in `reference_hashes` the reference hash, in
    unpadded base64, of each of `prev_events` and `auth_events`.
    """

    room_id: RoomID | None
    prev_events: Sequence[EventID]
    auth_events: Sequence[EventID]
    depth: int
    origin_server_ts: int
    event_id: EventID | None = None
    reference_hashes: Mapping[EventID, str] = attrs.field(factory=dict)


def build_event(
    draft: EventDraft, place: GraphPosition, rules: RoomVersion, signer: Signer
) -> Event:
    """Build a signed event from a draft.

    Raises: BadJson, if the room version does not allow the content; TooLarge.
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
    if draft.sticky_ms is not None:
        pdu[STICKY_KEY] = sticky_field(draft.sticky_ms)
    if not rules.event_id_is_hash:
        assert place.event_id is not None
        pdu["event_id"] = place.event_id
        pdu["origin"] = signer.server_name
    assert place.room_id is not None or (rules.room_id_is_create_hash and _is_create(pdu))
    _check_sizes(draft)
    return _sign(pdu, rules, signer)


def sign_template(template: Mapping[str, Any], rules: RoomVersion, signer: Signer) -> Event:
    """Sign the event template that a resident server returned, for example for `make_join`.

    Raises: InvalidEvent, if the template violates the event format; BadJson, TooLarge.
    """
    dropped = ("hashes", "signatures", "unsigned")
    pdu = {key: template[key] for key in template if key not in dropped}
    if rules.event_id_is_hash:
        pdu.pop("event_id", None)
    # The event must pass the checks that other servers make, before this server signs it.
    parse_pdu({**pdu, "hashes": {}, "signatures": {}}, rules)
    return _sign(pdu, rules, signer)


def countersign(event: Event, signer: Signer) -> Event:
    """Add this server's signature to an event of another server, such as an invite or a join."""
    signature = signer.key.sign(essential_bytes(event.pdu, event.rules))
    return with_signatures(event, with_signature(event.pdu.get("signatures"), signer, signature))


def with_signatures(event: Event, signatures: Mapping[str, Any]) -> Event:
    """Return a copy of an event with other `signatures`.

    Raises: InvalidEvent, if the event becomes too large.
    """
    pdu = {**event.pdu, "signatures": dict(signatures)}
    canonical = encode_pdu(pdu, event.rules)
    if len(canonical) > MAX_EVENT_BYTES:
        raise InvalidEvent("The event must be at most 65536 bytes long")
    return attrs.evolve(event, pdu=pdu, canonical=canonical)


def _sign(pdu: JsonObject, rules: RoomVersion, signer: Signer) -> Event:
    pdu["hashes"] = {"sha256": encode_base64(content_hash(pdu, rules))}
    # The reference hash is over the same bytes as the signature.
    essential = essential_bytes(pdu, rules)
    signature = signer.key.sign(essential)
    pdu["signatures"] = {signer.server_name: {signer.key.key_id: signature}}
    canonical = encode_pdu(pdu, rules)
    if len(canonical) > MAX_EVENT_BYTES:
        raise TooLarge("The event must be at most 65536 bytes long")
    if rules.event_id_is_hash:
        event_id = event_id_from(hashlib.sha256(essential).digest(), rules)
    else:
        event_id = pdu["event_id"]
    return trusted_event(event_id, pdu, canonical, rules)


def _references(
    event_ids: Sequence[EventID], place: GraphPosition, rules: RoomVersion
) -> list[Any]:
    if rules.event_id_is_hash:
        return list(event_ids)
    return [[event_id, {"sha256": place.reference_hashes[event_id]}] for event_id in event_ids]


def _is_create(pdu: Mapping[str, Any]) -> bool:
    return bool(pdu["type"] == types.CREATE)


def _check_sizes(draft: EventDraft) -> None:
    # A character has at most 4 bytes, so most strings need not be encoded to be measured.
    if len(draft.type) * 4 > MAX_ID_BYTES and len(draft.type.encode()) > MAX_ID_BYTES:
        raise TooLarge("type must be at most 255 bytes long")
    state_key = draft.state_key or ""
    if len(state_key) * 4 > MAX_ID_BYTES and len(state_key.encode()) > MAX_ID_BYTES:
        raise TooLarge("state_key must be at most 255 bytes long")
