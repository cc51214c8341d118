"""Append to any room from any process: calls go to the process that owns the room."""

import secrets
from collections.abc import Callable
from typing import Final

import attrs

from hs.core.ids import RoomID
from hs.repl.ownership import Ownership
from hs.repl.sharding import OwnerCalls
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft, TransactionKey

CREATE_SCOPE: Final = "/createRoom"


@attrs.frozen(eq=False)
class ShardedAppender:
    """The RoomAppender that all services use.

    `appender_of` returns the appender of a process: this process's RoomWriter, or an RPC proxy.
    `owners` is None for a server's only process.
    """

    _ownership: Ownership
    _appender_of: Callable[[str], RoomAppender]
    _owners: OwnerCalls | None

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        """Append events to a room; see RoomAppender."""
        if self._owners is None:
            return await self._appender_of(self._ownership.topology.instance).append(
                room_id, drafts
            )
        owners = self._owners
        return await owners.call(
            lambda: owners.owner(room_id),
            lambda owner: self._appender_of(owner).append(room_id, drafts),
        )

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        """Create a room in the process that will own it; see RoomAppender.

        A room without an ID gets one of the process that a random key belongs to, so the rooms of
        one creator, or those created through one process, are not all written by one process.
        """
        own = self._ownership.topology.instance
        if self._owners is None:
            return await self._appender_of(own).create(version, drafts)
        owners, key = self._owners, _key_of(drafts[0])
        remote = [_with_transaction_id(drafts[0]), *drafts[1:]]
        return await owners.call(
            lambda: owners.owner(key),
            lambda owner: self._appender_of(owner).create(
                version, drafts if owner == own else remote
            ),
        )


def _key_of(create: Draft) -> str:
    """Return the key that chooses the owner of a new room."""
    if create.new_room_id is not None:
        return create.new_room_id
    # A repeated request must reach the process that remembers the first one.
    return secrets.token_hex(8) if create.txn is None else create.txn.txn_id


def _with_transaction_id(create: Draft) -> Draft:
    """Return the draft with a transaction ID, so that a repeated call creates one room only.

    The RPC client repeats a call if the owner was restarted before it answered.
    """
    if create.txn is not None:
        return create
    return attrs.evolve(
        create, txn=TransactionKey(create.sender, "", CREATE_SCOPE, secrets.token_hex(12))
    )
