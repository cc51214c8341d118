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
from hs.services.federation_client.own_keys import OwnKeys
from hs.services.federation_client.server_keys import ServerKeys
from hs.storage.database import Database
from hs.storage.federation_client import server_keys as storage
from hs.storage.federation_client.server_keys import KeyResponse

MAX_SERVERS: Final = 100
QUERY_S: Final = 20.0


@attrs.frozen
class KeyQuery:
    """Which keys of a server are wanted, if not all, and until when they must be valid."""

    server: ServerName
    key_ids: frozenset[str]
    valid_until_ms: int | None


@attrs.frozen(eq=False)
class KeyNotary:
    """Answers queries. `signers` are the keys that sign the responses."""

    _own: OwnKeys
    _keys: ServerKeys
    _signers: Sequence[Signer]
    _database: Database
    _clock: Clock

    async def query(self, queries: Sequence[KeyQuery]) -> list[JsonObject]:
        """Return the signed keys of servers, as far as they can be obtained. Raises: InvalidParam.

        What is stored is returned if it suffices or if the server cannot be reached.
        """
        if len(queries) > MAX_SERVERS:
            raise InvalidParam(f"server_keys must have at most {MAX_SERVERS} servers")
        by_server = {query.server: query for query in queries}
        own = by_server.pop(self._own.server_name, None)
        stored = await self._stored(by_server)
        lacking = [
            query for server, query in by_server.items() if not self._suffices(query, stored)
        ]
        if lacking:
            with trio.move_on_after(QUERY_S):
                await self._keys.obtain_afresh([query.server for query in lacking])
            stored = await self._stored(by_server)
        responses = [parse_json(row.response) for row in stored.values()]
        if own is not None:
            responses.append(self._own.response())
        return [self._signed(response) for response in responses]

    async def _stored(self, servers: Mapping[ServerName, KeyQuery]) -> dict[str, KeyResponse]:
        if not servers:
            return {}
        rows = await self._database.read(storage.responses_of, sorted(servers))
        return {row.server: row for row in rows}

    def _suffices(self, query: KeyQuery, stored: Mapping[str, KeyResponse]) -> bool:
        row = stored.get(query.server)
        if row is None:
            return False
        until_ms = query.valid_until_ms
        if row.valid_until_ms < (self._clock.now_ms() if until_ms is None else until_ms):
            return False
        response = parse_json(row.response)
        found = {*response.get("verify_keys", ()), *response.get("old_verify_keys", ())}
        return query.key_ids <= found

    def _signed(self, response: JsonObject) -> JsonObject:
        for signer in self._signers:
            response = sign_json(response, signer)
        return response
