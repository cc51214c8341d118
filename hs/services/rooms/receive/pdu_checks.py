"""Checks of a received PDU that need nothing but the PDU: format, signatures, hashes.

Spec: server-server API, Checks performed on receipt of a PDU, steps 1 to 3.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.errors import InvalidEvent, InvalidSignature
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.events.hashes import redacted_unless_hash_matches
from hs.core.events.signatures import check_event_signature, required_signers
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import MAX_SIGNATURES, key_ids_of
from hs.core.versions import RoomVersion
from hs.services.federation_client.key_ring import KeyRing, VerifyKeyRequest

MIN_PDUS_FOR_THREAD: Final = 8  # verifying a PDU takes 0.1 ms


@attrs.frozen
class RefusedPdu:
    """A PDU that is dropped, and why; `event_id` is None if it has none."""

    event_id: EventID | None
    reason: str


CheckedPdu = Event | RefusedPdu
ParsePdu = Callable[[object, RoomVersion], Event]
Keys = Mapping[VerifyKeyRequest, Mapping[str, VerifyKey]]


@attrs.frozen(eq=False)
class PduChecker:
    """Turns PDUs into events."""

    _keys: KeyRing

    async def check(
        self,
        room_id: RoomID,
        rules: RoomVersion,
        pdus: Sequence[bytes],
        parse: ParsePdu = parse_pdu,
    ) -> list[CheckedPdu]:
        """Return the event of each PDU, or the reason why it is dropped.

        If the content hash is wrong, the event is returned in its redacted form.
        """
        run = _run_here if len(pdus) < MIN_PDUS_FOR_THREAD else trio.to_thread.run_sync
        parsed, needs = await run(_parse_all, room_id, rules, pdus, parse)
        found = await self._keys.keys_for(needs.latest.values()) if needs.latest else {}
        keys, missing = await run(_select_keys, needs, found)
        if missing:
            keys.update(await self._keys.keys_for(missing))
        return await run(_verify, parsed, keys)


@attrs.frozen(eq=False)
class _KeyNeeds:
    """The keys that events need, and by server what it needs for its latest event.

    A key that is valid at the time of the latest event is valid for all others, so that the key
    ring is asked once per server. Only where it is not, it is asked about each event.
    """

    each: Collection[VerifyKeyRequest]
    latest: Mapping[ServerName, VerifyKeyRequest]


async def _run_here(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _select_keys(
    needs: _KeyNeeds, found: Keys
) -> tuple[dict[VerifyKeyRequest, Mapping[str, VerifyKey]], list[VerifyKeyRequest]]:
    """Return the keys of events, and what is needed of those without keys."""
    keys: dict[VerifyKeyRequest, Mapping[str, VerifyKey]] = {}
    missing = []
    for need in needs.each:
        latest = needs.latest[need.server]
        of_server = found.get(latest, {})
        if need.key_ids & of_server.keys():
            keys[need] = of_server
        elif need != latest:
            missing.append(need)
    return keys, missing


def latest_needs(needs: Collection[VerifyKeyRequest]) -> dict[ServerName, VerifyKeyRequest]:
    """Return, by server, what is needed of it for its latest event."""
    by_server: dict[ServerName, list[VerifyKeyRequest]] = {}
    for need in needs:
        by_server.setdefault(need.server, []).append(need)
    latest = {}
    for server, server_needs in by_server.items():
        key_ids = {key_id for need in server_needs for key_id in need.key_ids}
        times = [need.valid_at_ms for need in server_needs if need.valid_at_ms is not None]
        limited = frozenset(sorted(key_ids)[:MAX_SIGNATURES])
        latest[server] = VerifyKeyRequest(server, limited, max(times, default=None))
    return latest


def required_keys(event: Event) -> list[VerifyKeyRequest]:
    """Return the keys that an event must be verified with."""
    valid_at_ms = event.origin_server_ts if event.rules.enforce_key_validity else None
    return [
        VerifyKeyRequest(server, frozenset(key_ids_of(event.pdu, server)), valid_at_ms)
        for server in sorted(required_signers(event))
    ]


def _parse(room_id: RoomID, rules: RoomVersion, pdu: bytes, parse: ParsePdu) -> CheckedPdu:
    # Step 1
    try:
        event = parse(orjson.loads(pdu), rules)
    except orjson.JSONDecodeError:
        return RefusedPdu(None, "The PDU is not valid JSON")
    except InvalidEvent as fault:
        return RefusedPdu(None, str(fault))
    if event.room_id != room_id:
        return RefusedPdu(event.event_id, "The event belongs to another room")
    return event


def _parse_all(
    room_id: RoomID, rules: RoomVersion, pdus: Sequence[bytes], parse: ParsePdu
) -> tuple[list[CheckedPdu], _KeyNeeds]:
    parsed = [_parse(room_id, rules, pdu, parse) for pdu in pdus]
    events = [event for event in parsed if isinstance(event, Event)]
    needs = {need for event in events for need in required_keys(event)}
    return parsed, _KeyNeeds(needs, latest_needs(needs))


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
