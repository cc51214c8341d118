"""What other servers ask about aliases."""

import attrs

from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.ids import RoomAlias, RoomID, ServerName
from hs.services.rooms.aliases.room_aliases import RoomAliases


@attrs.frozen
class AliasQuery:
    """GET /query/directory."""

    room_alias: RoomAlias = query()


@attrs.frozen
class AliasResponse:
    """The room of an alias, and servers that are in it."""

    room_id: RoomID
    servers: list[ServerName]


@attrs.frozen
class DirectoryQueryApi:
    """The endpoint of aliases."""

    naming: RoomAliases

    @route(
        "GET",
        "/_matrix/federation/v1/query/directory",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
    )
    async def query_directory(self, request: AliasQuery) -> AliasResponse:
        """Spec: server-server API, Querying for information."""
        if not self.naming.aliases.is_local(request.room_alias):
            raise NotFound("The alias does not belong to this server")
        return AliasResponse(*await self.naming.look_up(request.room_alias))
