"""The rooms that a user shares with another.

Spec: client-server API, Mutual Rooms.
"""

from typing import Final

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import RoomID, UserID, is_user_id
from hs.core.requester import Requester
from hs.core.tokens import PaginationToken
from hs.storage.database import Database
from hs.storage.rooms import mutual_rooms as storage

PAGE: Final = 100


@attrs.frozen
class MutualPage:
    """One page of rooms, and how many there are altogether."""

    joined: list[RoomID]
    count: int
    next_batch: str | None


@attrs.frozen(eq=False)
class MutualRooms:
    """Lists them."""

    _database: Database

    async def page(self, requester: Requester, user_id: str, start: str | None) -> MutualPage:
        """Give a page. Raises: InvalidParam, also for oneself."""
        if not is_user_id(user_id):
            raise InvalidParam("user_id is not a user ID")
        if user_id == requester.user_id:
            raise InvalidParam("You share all rooms with yourself")
        after = "" if start is None else str(PaginationToken.parse(start, str).keys[0])
        found, count = await self._database.read(
            storage.shared, requester.user_id, UserID(user_id), after, PAGE + 1
        )
        next_batch = None
        if len(found) > PAGE:
            found = found[:PAGE]
            next_batch = PaginationToken((found[-1],)).encode()
        return MutualPage([RoomID(one) for one in found], count, next_batch)
