"""The checks of a received PDU that look at nothing but itself: format, signatures, hashes.

Spec: server-server API, Checks performed on receipt of a PDU, steps 1 to 3.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import attrs
import orjson
import trio

from hs.core.errors import InvalidEvent, InvalidSignature
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.events.hashes import trusted_part
from hs.core.events.signatures import check_event_signature, required_signers
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import key_ids_of
from hs.core.versions import RoomVersion

MIN_FOR_THREAD: Final = 8  # verifying takes 0.1 ms each


@attrs.frozen
class KeyNeed:
    """Keys that are wanted of a server; `valid_at_ms` None: they need not be valid any more."""

    server: ServerName
    key_ids: frozenset[str]
    valid_at_ms: int | None


class KeyRing(Protocol):
    """Gives the keys of all servers, this one too."""

    async def keys_for(
        self, needs: Collection[KeyNeed]
    ) -> Mapping[KeyNeed, Mapping[str, VerifyKey]]:
        """Give what can be had of the wanted keys, by key ID."""
        ...


@attrs.frozen
class Refusal:
    """Why a PDU is dropped; its ID, if it has one."""

    event_id: EventID | None
    reason: str


Checked = Event | Refusal
Keys = Mapping[KeyNeed, Mapping[str, VerifyKey]]


@attrs.frozen(eq=False)
class PduChecker:
    """Makes events of PDUs."""

    _keys: KeyRing

    async def check(
        self, room_id: RoomID, rules: RoomVersion, pdus: Sequence[bytes]
    ) -> list[Checked]:
        """Give for each PDU its event, or why it is dropped.

        An event whose content hash is wrong is given in its redacted form.
        """
        if not pdus:
            return []
        parsed = [_parse(room_id, rules, pdu) for pdu in pdus]
        needs = {need for one in parsed if isinstance(one, Event) for need in key_needs(one)}
        keys = await self._keys.keys_for(needs) if needs else {}
        if len(parsed) < MIN_FOR_THREAD:
            return _verify(parsed, keys)
        return await trio.to_thread.run_sync(_verify, parsed, keys)


def key_needs(event: Event) -> list[KeyNeed]:
    """List the keys that an event must be verified with."""
    valid_at_ms = event.origin_server_ts if event.rules.enforce_key_validity else None
    return [
        KeyNeed(server, frozenset(key_ids_of(event.pdu, server)), valid_at_ms)
        for server in sorted(required_signers(event))
    ]


def _parse(room_id: RoomID, rules: RoomVersion, pdu: bytes) -> Checked:
    # Step 1
    try:
        event = parse_pdu(orjson.loads(pdu), rules)
    except orjson.JSONDecodeError:
        return Refusal(None, "The PDU is not JSON")
    except InvalidEvent as fault:
        return Refusal(None, str(fault))
    if event.room_id != room_id:
        return Refusal(event.event_id, "The event is of another room")
    return event


def _verify(parsed: Sequence[Checked], keys: Keys) -> list[Checked]:
    return [one if isinstance(one, Refusal) else _verified(one, keys) for one in parsed]


def _verified(event: Event, keys: Keys) -> Checked:
    # Step 2
    try:
        for need in key_needs(event):
            check_event_signature(event, need.server, keys.get(need, {}))
    except InvalidSignature as fault:
        return Refusal(event.event_id, fault.message)
    # Step 3
    return trusted_part(event)
