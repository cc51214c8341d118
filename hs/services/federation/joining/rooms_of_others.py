"""Joins, leaves and invites through other servers."""

from collections.abc import Sequence

import attrs

from hs.core.ids import RoomAlias, RoomID, ServerName
from hs.services.federation.joining.remote_aliases import RemoteAliases
from hs.services.rooms.membership.remote_rooms import NoRemoteRooms


@attrs.frozen(eq=False)
class RoomsOfOthers(NoRemoteRooms):
    """The RemoteRooms of a server with federation."""

    _aliases: RemoteAliases

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Resolve an alias of another server. Raises: NotFound, RemoteFault."""
        return await self._aliases.find(alias)
