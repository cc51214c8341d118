"""What administrators see of the servers that this one federates with, and what they can change."""

from collections.abc import Sequence

import attrs

from hs.core.errors import InvalidParam, NotFound
from hs.core.ids import ServerName
from hs.services.federation_client.server_backoff import ServerBackoff
from hs.storage.database import Database
from hs.storage.federation import destination_lists as storage
from hs.storage.federation.destination_lists import ORDERS, DestinationRecord, Page

__all__ = ["ORDERS", "DestinationLists", "DestinationRecord", "Page"]


@attrs.frozen(eq=False)
class DestinationLists:
    """Reads destinations; any process may."""

    _database: Database
    _backoff: ServerBackoff
    _server_name: ServerName

    async def list(self, order: str, page: Page) -> tuple[Sequence[DestinationRecord], int]:
        """Return a page of the destinations, and the number of all."""
        return await self._database.read(storage.list_destinations, self._server_name, order, page)

    async def get(self, server: str) -> DestinationRecord:
        """Return one destination. Raises: NotFound."""
        found = await self._database.read(storage.get, self._server_name, server)
        if found is None:
            raise NotFound("Unknown destination")
        return found

    async def rooms(self, server: str, page: Page) -> tuple[Sequence[tuple[str, int]], int]:
        """Return a page of the rooms shared with a destination, and their number.

        Raises: NotFound.
        """
        await self.get(server)
        return await self._database.read(storage.list_rooms, server, self._server_name, page)

    async def reset(self, server: str) -> None:
        """Have a destination that fails tried again at once. Raises: NotFound, InvalidParam."""
        found = await self.get(server)
        if found.since_ms is None:
            raise InvalidParam("Requests to this destination do not fail")
        # The federation sender follows this, and tries a destination that responds again.
        await self._backoff.responded(ServerName(server))
