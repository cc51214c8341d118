"""The verify keys of this server, and those of others, for which it is a notary."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.ids import ServerName, parse_server_name
from hs.services.federation_client.key_notary import KeyNotary, KeyQuery
from hs.services.federation_client.own_keys import OwnKeys


@attrs.frozen
class KeyQueryRequest:
    """GET /query/{serverName}."""

    server_name: ServerName = path(parse=parse_server_name)
    minimum_valid_until_ts: int | None = query(default=None)


@attrs.frozen
class KeyBatchRequest:
    """POST /query: for each server, key IDs and criteria."""

    server_keys: dict[str, dict[str, Any]] = body()


@attrs.frozen
class KeyQueryResponse:
    """Responses of servers, signed by this one as well."""

    server_keys: list[JsonObject]


@attrs.frozen
class ServerKeysApi:
    """The endpoints of keys.

    No work class: queries wait for servers, and need no authentication.
    """

    keys: OwnKeys
    notary: KeyNotary

    # Older servers name the key that they look for; they get all of them.
    @route(
        "GET",
        "/_matrix/key/v2/server",
        auth=NONE,
        extra_paths=["/_matrix/key/v2/server/{key_id}"],
    )
    async def get_server_keys(self) -> JsonObject:
        """Spec: server-server API, Publishing Keys."""
        return self.keys.response()

    @route(
        "GET",
        "/_matrix/key/v2/query/{server_name}",
        auth=NONE,
        extra_paths=["/_matrix/key/v2/query/{server_name}/{key_id}"],
    )
    async def query_keys(self, request: KeyQueryRequest) -> KeyQueryResponse:
        """Spec: server-server API, Querying Keys Through Another Server."""
        wanted = KeyQuery(request.server_name, frozenset(), request.minimum_valid_until_ts)
        return KeyQueryResponse(await self.notary.query([wanted]))

    @route("POST", "/_matrix/key/v2/query", auth=NONE)
    async def query_many_keys(self, request: KeyBatchRequest) -> KeyQueryResponse:
        """Spec: server-server API, Querying Keys Through Another Server."""
        queries = [
            KeyQuery(parse_server_name(server), frozenset(criteria), _valid_until(criteria))
            for server, criteria in request.server_keys.items()
        ]
        return KeyQueryResponse(await self.notary.query(queries))


def _valid_until(criteria: dict[str, Any]) -> int | None:
    """Return the latest time at which the keys must be valid. Raises: InvalidParam."""
    times = []
    for criterion in criteria.values():
        time = criterion.get("minimum_valid_until_ts") if isinstance(criterion, dict) else "none"
        if time is not None and (not isinstance(time, int) or isinstance(time, bool)):
            raise InvalidParam("minimum_valid_until_ts must be an integer")
        if time is not None:
            times.append(time)
    return max(times, default=None)
