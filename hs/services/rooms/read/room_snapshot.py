"""The snapshot of a room that `/rooms/{roomId}/initialSync` returns: state and last messages.

Spec: client-server API, `/rooms/{roomId}/initialSync`.
"""

from typing import Any, Final

import attrs
import orjson

from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.pagination import token_after, token_before
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
    """The response of initialSync for a room."""

    room_id: RoomID
    messages: LastMessages
    state: orjson.Fragment
    visibility: str
    account_data: list[dict[str, Any]]
    membership: str | None = None


@attrs.frozen(eq=False)
class RoomSnapshots:
    """Builds snapshots of rooms."""

    _database: Database
    _visibility: Visibility
    _timelines: Timelines
    _serializer: EventSerializer
    _state: RoomState

    async def of(self, requester: Requester, room_id: RoomID, limit: int) -> RoomSnapshot:
        """Return the snapshot of a room.

        Raises: Forbidden.
        """
        access = await self._visibility.check_may_read(requester.user_id, room_id)
        last_events = await self._timelines.last_events(requester, room_id, access, limit)
        chunk = await self._serializer.timeline(requester, last_events.events[::-1])
        end = token_after(last_events.events[0].stored).encode() if last_events.events else "t0-0"
        start = last_events.next_token or (
            token_before(last_events.events[-1].stored) if last_events.events else None
        )
        state = await self._state.all_for(requester, room_id, access)
        is_public, room_account_data = await self._database.read(
            _read_visibility_and_account_data, requester.user_id, room_id
        )
        return RoomSnapshot(
            room_id=room_id,
            messages=LastMessages(json_array(chunk), end, end if start is None else start.encode()),
            state=orjson.Fragment(state),
            visibility="public" if is_public else "private",
            account_data=room_account_data,
            membership=None if access.own is None else access.membership,
        )


async def _read_visibility_and_account_data(
    tx: Tx, user_id: UserID, room_id: RoomID
) -> tuple[bool, list[dict[str, Any]]]:
    room_account_data = [
        {"type": row.type, "content": orjson.loads(row.content)}
        for row in await account_data.list_all(tx, user_id)
        if row.room_id == room_id and row.content  # empty if deleted
    ]
    return await hierarchy.is_public(tx, room_id), room_account_data
