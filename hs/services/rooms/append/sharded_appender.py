"""Appending to any room from any process: the call goes to the process that owns the room."""

import secrets
from collections.abc import Mapping
from typing import Final

import attrs

from hs.core.ids import RoomID
from hs.repl.ownership import Ownership, shard_of
from hs.repl.streams import EVENTS
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Appended, Draft, TxnKey

CREATE_SCOPE: Final = "/createRoom"


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
        if maker != self._ownership.topology.instance:
            drafts = [_named(drafts[0]), *drafts[1:]]
        return await self._appenders[maker].create(version, drafts)


def _named(create: Draft) -> Draft:
    """Give a room to be a name by which its maker knows it again, should it be asked twice.

    A call is repeated when its maker was restarted before it could answer.
    """
    if create.txn is not None:
        return create
    return attrs.evolve(create, txn=TxnKey(create.sender, "", CREATE_SCOPE, secrets.token_hex(12)))
