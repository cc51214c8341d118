"""Requests to other servers about their users: profiles, devices and keys."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.errors import BadJson, RemoteFault
from hs.core.ids import ServerName, UserID, server_of
from hs.services.federation_client.client import FederationClient, segment

PROFILE_TIMEOUT_S: Final = 10.0
MAX_PROFILE_BYTES: Final = 1 << 17
MAX_KEYS_BYTES: Final = 16 << 20
KEYS_BYTES: Final = 1 << 20
KEYS_OF_USER_BYTES: Final = 1 << 15
"""What a response with keys may usually be long, besides and for each user."""

CLAIM_BYTES: Final = 1 << 16
CLAIMED_KEY_BYTES: Final = 1 << 12
MAX_DEVICE_LIST_BYTES: Final = 4 << 20

_QUERY_PROFILE: Final = "/_matrix/federation/v1/query/profile"
_QUERY_KEYS: Final = "/_matrix/federation/v1/user/keys/query"
_CLAIM_KEYS: Final = "/_matrix/federation/v1/user/keys/claim"
_DEVICES: Final = "/_matrix/federation/v1/user/devices/"


async def query_profile(client: FederationClient, user_id: UserID, field: str | None) -> JsonObject:
    """Return a user's profile, or one field of it. Raises: RemoteFault."""
    query = {"user_id": user_id} if field is None else {"user_id": user_id, "field": field}
    return await client.get(
        server_of(user_id),
        _QUERY_PROFILE,
        query,
        timeout_s=PROFILE_TIMEOUT_S,
        max_bytes=MAX_PROFILE_BYTES,
    )


async def query_keys(
    client: FederationClient,
    server: ServerName,
    requested: Mapping[UserID, Sequence[str]],
    timeout_s: float,
    max_bytes: int,
) -> JsonObject:
    """Return the response to a query of device keys. Raises: RemoteFault."""
    content = {"device_keys": {user_id: list(ids) for user_id, ids in requested.items()}}
    return await _post(client, server, _QUERY_KEYS, content, timeout_s, max_bytes)


def usual_keys_bytes(users: int) -> int:
    """Return how long a response with the keys of users usually is at most."""
    return min(MAX_KEYS_BYTES, KEYS_BYTES + KEYS_OF_USER_BYTES * users)


async def claim_keys(
    client: FederationClient,
    server: ServerName,
    requested: Mapping[UserID, Mapping[str, str]],
    timeout_s: float,
) -> JsonObject:
    """Return the response to a claim of one-time keys. Raises: RemoteFault."""
    max_bytes = CLAIM_BYTES + CLAIMED_KEY_BYTES * sum(map(len, requested.values()))
    content = {"one_time_keys": requested}
    return await _post(client, server, _CLAIM_KEYS, content, timeout_s, max_bytes)


async def fetch_devices(client: FederationClient, user_id: UserID, timeout_s: float) -> JsonObject:
    """Return all devices of a user, and the user's keys. Raises: RemoteFault."""
    return await client.get(
        server_of(user_id),
        _DEVICES + segment(user_id),
        timeout_s=timeout_s,
        max_bytes=MAX_DEVICE_LIST_BYTES,
    )


async def _post(
    client: FederationClient,
    server: ServerName,
    path: str,
    content: Mapping[str, Any],
    timeout_s: float,
    max_bytes: int,
) -> JsonObject:
    try:
        body = canonical_json(content)
    except BadJson as error:
        # A client's text that has no canonical form, such as a lone surrogate.
        raise RemoteFault(server, f"the request cannot be signed: {error.message}") from None
    return await client.request(
        server, "POST", path, body, timeout_s=timeout_s, max_bytes=max_bytes
    )
