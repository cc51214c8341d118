"""The complexity of rooms that other servers want to join."""

from typing import Final

import attrs

from hs.core.complexity import complexity_of
from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName
from hs.services.federation.joining.room_access import HandshakeAccess
from hs.storage.database import Database
from hs.storage.federation import room_sizes

_OPEN: Final = frozenset(
    (
        event_types.RULE_PUBLIC,
        event_types.RULE_KNOCK,
        event_types.RULE_RESTRICTED,
        event_types.RULE_KNOCK_RESTRICTED,
    )
)


@attrs.frozen(eq=False)
class RoomComplexity:
    """Says how complex rooms are, to servers that are in them or may join them."""

    _database: Database
    _access: HandshakeAccess

    async def of(self, origin: ServerName, room_id: RoomID) -> float:
        """Return the complexity of a room. Raises: NotFound, Forbidden."""
        room = await self._access.open(origin, room_id)
        if room.join_rule not in _OPEN and not await self._database.read(
            room_sizes.has_member_of, room_id, origin
        ):
            raise Forbidden("Your server may not join the room")
        return complexity_of(await self._database.read(room_sizes.count_state, room_id))
