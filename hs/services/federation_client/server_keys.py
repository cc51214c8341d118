"""The verify keys of other servers, fetched from them when they are needed.

Spec: server-server API, Retrieving server keys.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs
import trio

from hs.core.errors import InvalidSignature, InvalidSigningKey, RemoteFault
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, VerifyKey
from hs.core.signing.signed_json import verify_json
from hs.lib.clock import Clock
from hs.services.federation_client.client import object_in
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.federation_client.peer_transport import PeerRequest, PeerTransport

KEYS_URI: Final = "/_matrix/key/v2/server"
FETCH_TIMEOUT_S: Final = 10.0
MAX_KEY_BYTES: Final = 1 << 16
MAX_VALIDITY_MS: Final = 7 * 24 * 3600 * 1000
"""Longer validity periods count as this: spec, Publishing Keys."""


@attrs.frozen
class ServerKey:
    """A key and the time (ms) until which it is valid, or at which the server retired it."""

    key: VerifyKey
    valid_until_ms: int


@attrs.define(eq=False)
class ServerKeys:
    """The KeyRing that asks the servers themselves."""

    _signer: Signer
    _transport: PeerTransport
    _clock: Clock
    _known: dict[ServerName, dict[str, ServerKey]] = attrs.Factory(dict)

    async def keys_for(
        self, needs: Collection[VerifyKeyRequest]
    ) -> Mapping[VerifyKeyRequest, Mapping[str, VerifyKey]]:
        """Return the required keys that could be obtained; see KeyRing."""
        lacking = {need.server for need in needs if not self._has(need)}
        async with trio.open_nursery() as nursery:
            for server in lacking:
                nursery.start_soon(self._fetch, server)
        return {need: self._usable(need) for need in needs}

    def _has(self, need: VerifyKeyRequest) -> bool:
        return bool(self._usable(need))

    def _usable(self, need: VerifyKeyRequest) -> dict[str, VerifyKey]:
        own = self._signer.key.verify_key
        if need.server == self._signer.server_name:
            return {own.key_id: own} if own.key_id in need.key_ids else {}
        known = self._known.get(need.server, {})
        return {
            key_id: known[key_id].key
            for key_id in need.key_ids
            if key_id in known
            and (need.valid_at_ms is None or need.valid_at_ms <= known[key_id].valid_until_ms)
        }

    async def _fetch(self, server: ServerName) -> None:
        request = PeerRequest(
            server=server,
            method="GET",
            uri=KEYS_URI,
            headers={},
            body=None,
            timeout_s=FETCH_TIMEOUT_S,
            max_bytes=MAX_KEY_BYTES,
        )
        try:
            response = object_in(server, await self._transport.send(request))
            keys = keys_in(server, response, self._clock.now_ms())
        except (RemoteFault, InvalidSignature, InvalidSigningKey):
            return
        self._known.setdefault(server, {}).update(keys)


def keys_in(server: ServerName, response: Mapping[str, Any], now_ms: int) -> dict[str, ServerKey]:
    """Return the keys in a response of a server, by key ID.

    Raises: InvalidSignature, InvalidSigningKey.
    """
    if response.get("server_name") != server:
        raise InvalidSignature("The keys are of another server")
    valid_until_ms = response.get("valid_until_ts")
    if not isinstance(valid_until_ms, int):
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
        if key_id not in keys and isinstance(expired_ms, int):
            keys[key_id] = ServerKey(VerifyKey.parse(key_id, entry.get("key")), expired_ms)
    return keys


def _entries(response: Mapping[str, Any], field: str) -> list[tuple[str, Mapping[str, Any]]]:
    entries = response.get(field)
    if not isinstance(entries, Mapping):
        return []
    return [(key_id, entry) for key_id, entry in entries.items() if isinstance(entry, Mapping)]
