"""Append to any room from any process: calls go to the process that owns the room."""

import secrets
from collections.abc import Mapping
from typing import Final

import attrs

from hs.core.ids import RoomID
from hs.core.streams import EVENTS
from hs.repl.ownership import Ownership, shard_of
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft, TransactionKey

CREATE_SCOPE: Final = "/createRoom"


@attrs.frozen(eq=False)
class ShardedAppender:
    """The RoomAppender that all services use.

    `appenders` maps each instance that writes the events stream to its appender: this process's
    RoomWriter, and RPC proxies of the others.
    """

    _ownership: Ownership
    _appenders: Mapping[str, RoomAppender]

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        """Append events to a room; see RoomAppender."""
        owner = self._ownership.owner(EVENTS, room_id)
        return await self._appenders[owner].append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        """Create a room in the process that will own it; see RoomAppender."""
        writers = self._ownership.writers(EVENTS)
        room_id = drafts[0].new_room_id
        if room_id is not None:
            owner = self._ownership.owner(EVENTS, room_id)
        elif self._ownership.writes(EVENTS):
            owner = self._ownership.topology.instance
        else:
            owner = writers[shard_of(drafts[0].sender, len(writers))]
        if owner != self._ownership.topology.instance:
            drafts = [_with_transaction_id(drafts[0]), *drafts[1:]]
        return await self._appenders[owner].create(version, drafts)


def _with_transaction_id(create: Draft) -> Draft:
    """Return the draft with a transaction ID, so that a repeated call creates one room only.

    The RPC client repeats a call if the owner was restarted before it answered.
    """
    if create.txn is not None:
        return create
    return attrs.evolve(
        create, txn=TransactionKey(create.sender, "", CREATE_SCOPE, secrets.token_hex(12))
    )
