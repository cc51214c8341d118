"""The rooms that two users share.

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
class MutualRoomsPage:
    """One page of rooms, and the number of all shared rooms."""

    joined: list[RoomID]
    count: int
    next_batch: str | None


@attrs.frozen(eq=False)
class MutualRooms:
    """Lists the rooms that a requester shares with another user."""

    _database: Database

    async def page(self, requester: Requester, user_id: str, start: str | None) -> MutualRoomsPage:
        """Return a page of rooms. Raises: InvalidParam, also for the requester's own user ID."""
        if not is_user_id(user_id):
            raise InvalidParam("user_id must be a valid user ID")
        if user_id == requester.user_id:
            raise InvalidParam("user_id must not be your own user ID")
        after = "" if start is None else str(PaginationToken.parse(start, str).keys[0])
        rooms, count = await self._database.read(
            storage.list_mutual_rooms, requester.user_id, UserID(user_id), after, PAGE + 1
        )
        next_batch = None
        if len(rooms) > PAGE:
            rooms = rooms[:PAGE]
            next_batch = PaginationToken((rooms[-1],)).encode()
        return MutualRoomsPage([RoomID(room_id) for room_id in rooms], count, next_batch)
