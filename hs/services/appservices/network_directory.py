"""Lists of rooms that application services keep for their networks.

Spec: application service API, Adding, updating, and deleting a published room.
"""

from typing import Protocol

import attrs

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.appservices.appservice_registry import ServiceRegistry


class NetworkDirectory(Protocol):
    """Stores the lists; a network is known by its service and its own name."""

    async def set_network_listed(self, network: str, room_id: RoomID, listed: bool) -> None:
        """List a room, or do not. Raises: NotFound."""
        ...


@attrs.frozen(eq=False)
class NetworkLists:
    """Lets services list rooms."""

    _registry: ServiceRegistry
    _directory: NetworkDirectory

    async def set_listed(
        self, requester: Requester, network_id: str, room_id: RoomID, listed: bool
    ) -> None:
        """List a room in a network of the service that asks, or do not.

        Raises: Forbidden, NotFound.
        """
        service = self._registry.of_requester(requester)
        await self._directory.set_network_listed(f"{service.id}|{network_id}", room_id, listed)
