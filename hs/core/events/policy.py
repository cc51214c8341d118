"""Policy servers: the policy server of a room, and its signature on an event.

Spec: server-server API, Policy Servers.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.errors import InvalidParam, InvalidSignature, InvalidSigningKey
from hs.core.events import event_types
from hs.core.events.encoding import encode_pdu
from hs.core.events.event import Event
from hs.core.events.hashes import essential_bytes
from hs.core.ids import ServerName, parse_server_name
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import check_signatures

KEY_ID: Final = "ed25519:policy_server"


@attrs.frozen
class RoomPolicy:
    """The policy server of a room, and the key that it signs events with."""

    server: ServerName
    key: VerifyKey


def room_policy_of(content: Mapping[str, Any]) -> RoomPolicy | None:
    """Read the content of `m.room.policy`; return None if it is invalid."""
    keys = content.get("public_keys")
    if not isinstance(keys, Mapping):
        return None
    try:
        server = parse_server_name(content.get("via"))
        return RoomPolicy(server, VerifyKey.parse(KEY_ID, keys.get("ed25519")))
    except (InvalidParam, InvalidSigningKey):
        return None


def is_exempt(event: Event) -> bool:
    """Return whether an event needs no signature of the policy server: `m.room.policy` itself."""
    return event.type == event_types.POLICY and event.state_key == ""


def has_policy_signature(event: Event, policy: RoomPolicy) -> bool:
    """Return whether the policy server has signed an event."""
    essential = essential_bytes(event.pdu, event.rules)
    try:
        check_signatures(event.pdu, policy.server, {KEY_ID: policy.key}, essential)
    except InvalidSignature:
        return False
    return True


def with_policy_signature(event: Event, policy: RoomPolicy, answer: Mapping[str, Any]) -> Event:
    """Return a copy of an event with the signature that the policy server returned.

    Raises: InvalidSignature.
    """
    server_signatures = answer.get(policy.server)
    signature = server_signatures.get(KEY_ID) if isinstance(server_signatures, Mapping) else None
    if not isinstance(signature, str):
        raise InvalidSignature(f"{policy.server} did not sign the event")
    signatures = event.pdu["signatures"]
    merged = {**signatures.get(policy.server, {}), KEY_ID: signature}
    pdu = {**event.pdu, "signatures": {**signatures, policy.server: merged}}
    check_signatures(
        pdu, policy.server, {KEY_ID: policy.key}, essential_bytes(event.pdu, event.rules)
    )
    return attrs.evolve(event, pdu=pdu, canonical=encode_pdu(pdu, event.rules))
