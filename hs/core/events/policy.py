"""Policy servers: which one a room has chosen, and its signature on an event.

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
    """The server that recommends a room's events, and the key it does so with."""

    server: ServerName
    key: VerifyKey


def policy_in(content: Mapping[str, Any]) -> RoomPolicy | None:
    """Read an m.room.policy; None when it is not valid, and the room has no policy server."""
    keys = content.get("public_keys")
    if not isinstance(keys, Mapping):
        return None
    try:
        server = parse_server_name(content.get("via"))
        return RoomPolicy(server, VerifyKey.parse(KEY_ID, keys.get("ed25519")))
    except (InvalidParam, InvalidSigningKey):
        return None


def is_exempt(event: Event) -> bool:
    """Tell whether an event needs nobody's recommendation: the choice of the server itself."""
    return event.type == event_types.POLICY and event.state_key == ""


def with_recommendation(event: Event, policy: RoomPolicy, answer: Mapping[str, Any]) -> Event:
    """Give an event with the signature that a policy server answered.

    Raises: InvalidSignature.
    """
    given = answer.get(policy.server)
    signature = given.get(KEY_ID) if isinstance(given, Mapping) else None
    if not isinstance(signature, str):
        raise InvalidSignature(f"{policy.server} has not signed the event")
    signatures = event.pdu["signatures"]
    theirs = {**signatures.get(policy.server, {}), KEY_ID: signature}
    pdu = {**event.pdu, "signatures": {**signatures, policy.server: theirs}}
    check_signatures(
        pdu, policy.server, {KEY_ID: policy.key}, essential_bytes(event.pdu, event.rules)
    )
    return attrs.evolve(event, pdu=pdu, canonical=encode_pdu(pdu, event.rules))
