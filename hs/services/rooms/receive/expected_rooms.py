"""The rooms that local users are joining through other servers, in the process that owns them.

Servers in such a room send its events as soon as they know of the join, which may be before this
server has received the room.
"""

from typing import Final

import attrs
import trio

from hs.core.ids import RoomID
from hs.core.versions import RoomVersion

EXPECTED_S: Final = 300.0
"""How long a room is expected: longer than joining takes."""

MAX_ROOMS: Final = 1000


@attrs.define(eq=False)
class ExpectedRooms:
    """The rooms that are expected, and their versions; of too many, the oldest are forgotten."""

    _rooms: dict[RoomID, tuple[RoomVersion, float]] = attrs.Factory(dict)

    def add(self, room_id: RoomID, rules: RoomVersion) -> None:
        """Expect a room for a while."""
        self._rooms.pop(room_id, None)
        self._rooms[room_id] = (rules, trio.current_time() + EXPECTED_S)
        if len(self._rooms) > MAX_ROOMS:
            del self._rooms[next(iter(self._rooms))]

    def rules_of(self, room_id: RoomID) -> RoomVersion | None:
        """Return the version of an expected room; None if it is not expected."""
        rules, until_s = self._rooms.get(room_id, (None, 0.0))
        if rules is not None and until_s < trio.current_time():
            del self._rooms[room_id]
            return None
        return rules
