"""Aliases of other servers. Spec: server-server API, Querying for information."""

from collections.abc import Sequence

import attrs

from hs.core.errors import InvalidParam, NotFound, RemoteFault
from hs.core.ids import RoomAlias, RoomID, ServerName, parse_room_id, parse_server_name, server_of
from hs.services.federation_client.client import FederationClient

MAX_SERVERS = 500


@attrs.frozen(eq=False)
class RemoteAliases:
    """Asks other servers for their aliases."""

    _client: FederationClient

    async def find(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Return the room of an alias, and servers in it. Raises: NotFound, RemoteFault."""
        server = server_of(alias)
        try:
            response = await self._client.get(
                server, "/_matrix/federation/v1/query/directory", {"room_alias": alias}
            )
        except RemoteFault as fault:
            if fault.error is not None and fault.error.status == 404:
                raise NotFound(f"Room alias {alias} not found.") from None
            raise
        try:
            room_id = parse_room_id(response.get("room_id"))
        except InvalidParam:
            raise RemoteFault(server, "its response contains no room ID", retry=False) from None
        servers = response.get("servers")
        return room_id, _server_names(servers[:MAX_SERVERS] if isinstance(servers, list) else [])


def _server_names(values: Sequence[object]) -> list[ServerName]:
    names = []
    for value in values:
        try:
            names.append(parse_server_name(value))
        except InvalidParam:
            continue
    return names
