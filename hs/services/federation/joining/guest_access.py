"""Whether guests of this server may join rooms that it is not in.

Only this server knows that a user is a guest. So it asks before the join, and refuses it unless a
server in the room responds that guests may join.

Spec: client-server API, Guest Access; server-server API, Spaces (`guest_can_join`).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from hs.core.errors import MatrixError, RemoteFault
from hs.core.ids import RoomID, ServerName, UserID
from hs.services.federation.joining.candidates import ServerCandidates, in_time, try_in_turn
from hs.services.federation.requests.directory import get_space
from hs.services.federation_client.client import FederationClient

DEADLINE_S: Final = 60.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class GuestAccess:
    """Asks servers in rooms whether guests may join."""

    _client: FederationClient
    _candidates: ServerCandidates

    async def allows_guests(
        self, user_id: UserID, room_id: RoomID, via: Sequence[ServerName]
    ) -> bool:
        """Return whether guests may join a room; False if the servers do not show the room.

        Raises: MatrixError 504, RemoteFault.
        """
        servers = await self._candidates.of(room_id, user_id, via)
        with in_time(DEADLINE_S):
            try:
                return await try_in_turn(servers, partial(self._ask, room_id=room_id))
            except MatrixError as error:
                log.info("guest %s may not join %s: %s", user_id, room_id, error)
                return False

    async def _ask(self, server: ServerName, room_id: RoomID) -> bool:
        space = await get_space(self._client, server, room_id, suggested_only=True)
        if space is None:
            raise RemoteFault(server, "it responded with another room", retry=False)
        return bool(space.room["guest_can_join"])
