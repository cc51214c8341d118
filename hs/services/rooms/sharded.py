"""Appending to any room from any process: the call goes to the process that owns the room."""

from collections.abc import Mapping

import attrs

from hs.core.ids import RoomID
from hs.repl.ownership import Ownership, shard_of
from hs.repl.streams import EVENTS
from hs.services.rooms.appender import RoomAppender
from hs.services.rooms.drafts import Appended, Draft


@attrs.frozen(eq=False)
class ShardedAppender:
    """The RoomAppender that all services use.

    `appenders` holds one for every instance that writes the events stream: this process's own
    RoomWriter, and proxies of the others.
    """

    _ownership: Ownership
    _appenders: Mapping[str, RoomAppender]

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[Appended]:
        """Append events to a room; see RoomAppender."""
        owner = self._ownership.owner(EVENTS, room_id)
        return await self._appenders[owner].append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[Appended]:
        """Make a room, which belongs to the process that makes it; see RoomAppender."""
        writers = self._ownership.writers(EVENTS)
        wanted = drafts[0].new_room_id
        if wanted is not None:
            maker = self._ownership.owner(EVENTS, wanted)
        elif self._ownership.writes(EVENTS):
            maker = self._ownership.topology.instance
        else:
            maker = writers[shard_of(drafts[0].sender, len(writers))]
        return await self._appenders[maker].create(version, drafts)
