"""One room at a glance: its state and its last messages, for those who look in from outside.

Spec: client-server API, `/rooms/{roomId}/initialSync`.
"""

from typing import Any, Final

import attrs
import orjson

from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.pagination import before, behind
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.room_state import RoomState
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.read.visibility import Visibility
from hs.storage.accounts import account_data
from hs.storage.database import Database, Tx
from hs.storage.rooms import hierarchy

LIMIT: Final = 10


@attrs.frozen
class LastMessages:
    """The last messages, the earliest first."""

    chunk: orjson.Fragment
    end: str
    start: str


@attrs.frozen
class RoomSnapshot:
    """What a client needs to show a room."""

    room_id: RoomID
    messages: LastMessages
    state: orjson.Fragment
    visibility: str
    account_data: list[dict[str, Any]]
    membership: str | None = None


@attrs.frozen(eq=False)
class RoomSnapshots:
    """Makes snapshots of rooms."""

    _database: Database
    _visibility: Visibility
    _timelines: Timelines
    _showing: Showing
    _state: RoomState

    async def of(self, requester: Requester, room_id: RoomID, limit: int) -> RoomSnapshot:
        """Give a room at a glance.

        Raises: Forbidden.
        """
        standing = await self._visibility.check_may_read(requester.user_id, room_id)
        last = await self._timelines.last_events(requester, room_id, standing, limit)
        chunk = await self._showing.timeline(requester, last.seen[::-1])
        end = behind(last.seen[0].stored).encode() if last.seen else "t0-0"
        start = last.rest or (before(last.seen[-1].stored) if last.seen else None)
        state = await self._state.all_for(requester, room_id, standing)
        listed, own = await self._database.read(_about, requester.user_id, room_id)
        return RoomSnapshot(
            room_id,
            LastMessages(json_array(chunk), end, end if start is None else start.encode()),
            orjson.Fragment(state),
            "public" if listed else "private",
            own,
            None if standing.own is None else standing.membership,
        )


async def _about(tx: Tx, user_id: UserID, room_id: RoomID) -> tuple[bool, list[dict[str, Any]]]:
    own = [
        {"type": one.type, "content": orjson.loads(one.content)}
        for one in await account_data.all_of(tx, user_id)
        if one.room_id == room_id and one.content  # what was deleted is empty
    ]
    return await hierarchy.is_public(tx, room_id), own
