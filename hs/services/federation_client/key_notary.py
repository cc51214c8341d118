"""This server as a notary: it returns the keys of other servers with its signature.

Spec: server-server API, Querying Keys Through Another Server.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import trio

from hs.core.canonical_json import JsonObject, parse_json
from hs.core.errors import InvalidParam
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import sign_json
from hs.lib.clock import Clock
from hs.lib.limiter import RateLimiter, TokenBucketRate
from hs.services.federation_client.key_responses import key_ids_of
from hs.services.federation_client.own_keys import OwnKeys
from hs.services.federation_client.server_keys import ServerKeys
from hs.storage.database import Database, Tx
from hs.storage.federation_client import server_keys as storage
from hs.storage.federation_client.server_keys import FormerResponse, KeyResponse

MAX_SERVERS: Final = 100
ASKING: Final = TokenBucketRate(per_second=1 / 60, burst=10)
"""How often a server is asked because stored keys are not valid for long enough."""

QUERY_S: Final = 20.0
WAITING_QUERIES: Final = 50
"""Queries that wait for servers; anybody may send some. Others are answered with what is stored."""


@attrs.frozen
class KeyQuery:
    """Which keys of a server are wanted, if not all, and until when they must be valid."""

    server: ServerName
    key_ids: frozenset[str]
    valid_until_ms: int | None


@attrs.frozen
class _StoredResponse:
    """A response of a server, its keys, and until when the current ones are valid."""

    response: JsonObject
    key_ids: frozenset[str]
    valid_until_ms: int


@attrs.frozen(eq=False)
class KeyNotary:
    """Answers queries. `signers` are the keys that sign the responses."""

    _own: OwnKeys
    _keys: ServerKeys
    _signers: Sequence[Signer]
    _database: Database
    _clock: Clock
    _asking: RateLimiter[ServerName] = attrs.field(factory=lambda: RateLimiter(ASKING))
    _waiting: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(WAITING_QUERIES))

    async def query(self, queries: Sequence[KeyQuery]) -> list[JsonObject]:
        """Return the signed keys of servers, as far as they can be obtained. Raises: InvalidParam.

        Stored responses are returned if they suffice or if the server cannot be reached. Keys that
        a server no longer publishes are in its former responses.
        """
        if len(queries) > MAX_SERVERS:
            raise InvalidParam(f"server_keys must have at most {MAX_SERVERS} servers")
        by_server = {query.server: query for query in queries}
        own = by_server.pop(self._own.server_name, None)
        stored = await self._stored(by_server)
        lacking = [
            query.server
            for query in by_server.values()
            if not self._suffices(query, stored.get(query.server, ()))
        ]
        now_s = self._clock.now_ms() / 1000
        asked = [server for server in lacking if not self._asking.take(server, now_s)]
        if asked and await self._ask(asked):
            stored = await self._stored(by_server)
        responses = [
            found.response
            for server, query in by_server.items()
            for found in _select(query, stored.get(server, ()))
        ]
        if own is not None:
            responses.append(self._own.response())
        return [self._signed(response) for response in responses]

    async def _ask(self, servers: Sequence[ServerName]) -> bool:
        """Ask servers for their keys; return False if too many queries wait for servers."""
        try:
            self._waiting.acquire_nowait()
        except trio.WouldBlock:
            return False
        try:
            with trio.move_on_after(QUERY_S):
                await self._keys.fetch_again(servers)
        finally:
            self._waiting.release()
        return True

    async def _stored(
        self, servers: Mapping[ServerName, KeyQuery]
    ) -> dict[str, list[_StoredResponse]]:
        """Return the responses of servers, the latest of each first."""
        if not servers:
            return {}
        stored: dict[str, list[_StoredResponse]] = {}
        for row in await self._database.read(_load, sorted(servers)):
            response = parse_json(row.response)
            found = _StoredResponse(response, key_ids_of(response), row.valid_until_ms)
            if found not in stored.setdefault(row.server, []):
                stored[row.server].append(found)
        return stored

    def _suffices(self, query: KeyQuery, stored: Sequence[_StoredResponse]) -> bool:
        until_ms = query.valid_until_ms
        if until_ms is None:
            until_ms = self._clock.now_ms()
        if not query.key_ids:
            return any(found.valid_until_ms >= until_ms for found in stored[:1])
        return all(
            any(key_id in found.key_ids and found.valid_until_ms >= until_ms for found in stored)
            for key_id in query.key_ids
        )

    def _signed(self, response: JsonObject) -> JsonObject:
        for signer in self._signers:
            response = sign_json(response, signer)
        return response


async def _load(tx: Tx, servers: list[ServerName]) -> list[KeyResponse | FormerResponse]:
    return [
        *await storage.responses_of(tx, servers),
        *await storage.former_responses(tx, servers),
    ]


def _select(query: KeyQuery, stored: Sequence[_StoredResponse]) -> Sequence[_StoredResponse]:
    """Return the latest response with each of the keys; without any, the latest one."""
    selected: dict[int, _StoredResponse] = {}
    for key_id in sorted(query.key_ids):
        for number, found in enumerate(stored):
            if key_id in found.key_ids:
                selected[number] = found
                break
    return list(selected.values()) or stored[:1]
