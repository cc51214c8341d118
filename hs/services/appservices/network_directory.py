"""The room lists of application services' networks.

Spec: application service API, Adding, updating, and deleting a published room.
"""

import attrs

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.directory.public_rooms import PublicRooms


@attrs.frozen(eq=False)
class NetworkRoomLists:
    """The room lists that services manage."""

    _registry: AppserviceRegistry
    _directory: PublicRooms

    async def set_listed(
        self, requester: Requester, network_id: str, room_id: RoomID, listed: bool
    ) -> None:
        """Add a room to a network of the requesting service, or remove it.

        Raises: Forbidden, NotFound.
        """
        service = self._registry.of_requester(requester)
        await self._directory.set_network_listed(f"{service.id}|{network_id}", room_id, listed)
