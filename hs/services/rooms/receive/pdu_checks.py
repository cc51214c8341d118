"""Checks of a received PDU that need nothing but the PDU: format, signatures, hashes.

Spec: server-server API, Checks performed on receipt of a PDU, steps 1 to 3.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import orjson
import trio

from hs.core.errors import InvalidEvent, InvalidSignature
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.events.hashes import redacted_unless_hash_matches
from hs.core.events.signatures import check_event_signature, required_signers
from hs.core.ids import EventID, RoomID
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import key_ids_of
from hs.core.versions import RoomVersion
from hs.services.federation_client.key_ring import KeyRing, VerifyKeyRequest

MIN_PDUS_FOR_THREAD: Final = 8  # verifying a PDU takes 0.1 ms


@attrs.frozen
class RefusedPdu:
    """A PDU that is dropped, and why; `event_id` is None if it has none."""

    event_id: EventID | None
    reason: str


CheckedPdu = Event | RefusedPdu
Keys = Mapping[VerifyKeyRequest, Mapping[str, VerifyKey]]


@attrs.frozen(eq=False)
class PduChecker:
    """Turns PDUs into events."""

    _keys: KeyRing

    async def check(
        self, room_id: RoomID, rules: RoomVersion, pdus: Sequence[bytes]
    ) -> list[CheckedPdu]:
        """Return the event of each PDU, or the reason why it is dropped.

        If the content hash is wrong, the event is returned in its redacted form.
        """
        if not pdus:
            return []
        parsed = [_parse(room_id, rules, pdu) for pdu in pdus]
        needs = {
            need for event in parsed if isinstance(event, Event) for need in required_keys(event)
        }
        keys = await self._keys.keys_for(needs) if needs else {}
        if len(parsed) < MIN_PDUS_FOR_THREAD:
            return _verify(parsed, keys)
        return await trio.to_thread.run_sync(_verify, parsed, keys)


def required_keys(event: Event) -> list[VerifyKeyRequest]:
    """Return the keys that an event must be verified with."""
    valid_at_ms = event.origin_server_ts if event.rules.enforce_key_validity else None
    return [
        VerifyKeyRequest(server, frozenset(key_ids_of(event.pdu, server)), valid_at_ms)
        for server in sorted(required_signers(event))
    ]


def _parse(room_id: RoomID, rules: RoomVersion, pdu: bytes) -> CheckedPdu:
    # Step 1
    try:
        event = parse_pdu(orjson.loads(pdu), rules)
    except orjson.JSONDecodeError:
        return RefusedPdu(None, "The PDU is not valid JSON")
    except InvalidEvent as fault:
        return RefusedPdu(None, str(fault))
    if event.room_id != room_id:
        return RefusedPdu(event.event_id, "The event belongs to another room")
    return event


def _verify(parsed: Sequence[CheckedPdu], keys: Keys) -> list[CheckedPdu]:
    return [pdu if isinstance(pdu, RefusedPdu) else _verified(pdu, keys) for pdu in parsed]


def _verified(event: Event, keys: Keys) -> CheckedPdu:
    # Step 2
    try:
        for need in required_keys(event):
            check_event_signature(event, need.server, keys.get(need, {}))
    except InvalidSignature as fault:
        return RefusedPdu(event.event_id, fault.message)
    # Step 3
    return redacted_unless_hash_matches(event)
