"""Responses with the keys of servers: parsing, and requests for them.

Spec: server-server API, Retrieving server keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from hs.core.canonical_json import canonical_json
from hs.core.errors import BadJson, InvalidSignature, InvalidSigningKey
from hs.core.ids import ServerName
from hs.core.signing.keys import ALGORITHM, VerifyKey
from hs.core.signing.signed_json import verify_json
from hs.services.federation_client.client import object_in
from hs.services.federation_client.peer_transport import PeerRequest, PeerTransport

KEYS_URI: Final = "/_matrix/key/v2/server"
QUERY_URI: Final = "/_matrix/key/v2/query"
FETCH_TIMEOUT_S: Final = 10.0
MAX_KEY_BYTES: Final = 1 << 16
MAX_QUERY_BYTES: Final = 4 << 20
MAX_KEYS: Final = 200
MAX_KEY_ID_CHARS: Final = 255
MAX_VALIDITY_MS: Final = 7 * 24 * 3600 * 1000
"""Longer validity periods count as this: spec, Publishing Keys."""


@attrs.frozen
class ServerKey:
    """A key and the time (ms) until which it is valid, or at which the server retired it."""

    key: VerifyKey
    valid_until_ms: int


@attrs.frozen
class PublishedKeys:
    """The keys in a response, by key ID, and until when the current ones are valid.

    `response` is the whole response as canonical JSON.
    """

    server: ServerName
    keys: Mapping[str, ServerKey]
    valid_until_ms: int
    response: bytes


def published_keys(server: ServerName, response: Mapping[str, Any], now_ms: int) -> PublishedKeys:
    """Return the keys in a response that a server has signed.

    Raises: InvalidSignature, InvalidSigningKey.
    """
    if response.get("server_name") != server:
        raise InvalidSignature("The keys are of another server")
    valid_until_ms = response.get("valid_until_ts")
    if not isinstance(valid_until_ms, int) or isinstance(valid_until_ms, bool):
        raise InvalidSigningKey("valid_until_ts must be an integer")
    valid_until_ms = min(valid_until_ms, now_ms + MAX_VALIDITY_MS)
    current = {
        key_id: VerifyKey.parse(key_id, entry.get("key"))
        for key_id, entry in _entries(response, "verify_keys")
    }
    verify_json(response, server, current)
    keys = {key_id: ServerKey(key, valid_until_ms) for key_id, key in current.items()}
    for key_id, entry in _entries(response, "old_verify_keys"):
        expired_ms = entry.get("expired_ts")
        if key_id not in keys and type(expired_ms) is int and expired_ms >= 0:
            # A key cannot have been retired in the future.
            expired_ms = min(expired_ms, now_ms)
            keys[key_id] = ServerKey(VerifyKey.parse(key_id, entry.get("key")), expired_ms)
    try:
        return PublishedKeys(server, keys, valid_until_ms, canonical_json(response))
    except BadJson as fault:
        raise InvalidSigningKey(f"The keys cannot be published again: {fault}") from None


def key_ids_of(response: Mapping[str, Any]) -> frozenset[str]:
    """Return the IDs of the current and the old keys in a response that was parsed before."""
    return frozenset((*response.get("verify_keys", ()), *response.get("old_verify_keys", ())))


async def fetch_keys(transport: PeerTransport, server: ServerName, now_ms: int) -> PublishedKeys:
    """Ask a server for its keys.

    It is asked although it may have failed before: a request of it may be waiting for its keys.
    Raises: RemoteFault, InvalidSignature, InvalidSigningKey.
    """
    request = PeerRequest(
        server=server,
        method="GET",
        uri=KEYS_URI,
        headers={},
        body=None,
        timeout_s=FETCH_TIMEOUT_S,
        max_bytes=MAX_KEY_BYTES,
        ignores_backoff=True,
    )
    return published_keys(server, object_in(server, await transport.send(request)), now_ms)


async def query_notary(
    transport: PeerTransport,
    notary: ServerName,
    wanted: Mapping[ServerName, Mapping[str, int]],
) -> Sequence[Mapping[str, Any]]:
    """Ask a notary for the keys of servers; `wanted` are key IDs and the time of their use.

    The responses are not checked. Raises: RemoteFault.
    """
    criteria = {
        server: {key_id: {"minimum_valid_until_ts": ms} for key_id, ms in key_ids.items()}
        for server, key_ids in wanted.items()
    }
    request = PeerRequest(
        server=notary,
        method="POST",
        uri=QUERY_URI,
        headers={"content-type": "application/json"},
        body=canonical_json({"server_keys": criteria}),
        timeout_s=FETCH_TIMEOUT_S,
        max_bytes=MAX_QUERY_BYTES,
    )
    responses = object_in(notary, await transport.send(request)).get("server_keys")
    if not isinstance(responses, list):
        return []
    return [response for response in responses if isinstance(response, Mapping)]


def _entries(response: Mapping[str, Any], field: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the Ed25519 keys in a response; keys of other algorithms are ignored."""
    entries = response.get(field)
    if not isinstance(entries, Mapping):
        return []
    found = [
        (key_id, entry)
        for key_id, entry in entries.items()
        if isinstance(entry, Mapping) and _is_key_id(key_id)
    ]
    if len(found) > MAX_KEYS:
        raise InvalidSigningKey(f"{field} has more than {MAX_KEYS} keys")
    return found


def _is_key_id(key_id: str) -> bool:
    is_short = len(key_id) <= MAX_KEY_ID_CHARS
    return is_short and key_id.startswith(f"{ALGORITHM}:") and "\0" not in key_id
