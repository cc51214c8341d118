"""The writer of account data: the process that owns the stream `account_data`, or a user's shard.

It reads and writes an entry in one transaction, and all writes to the data of a user go through it,
so concurrent changes of different tags do not overwrite each other.
"""

from typing import Any, Protocol

import attrs
import orjson

from hs.core.canonical_json import shrink_to_fit
from hs.core.errors import TooLarge
from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import AccountDataRow
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.storage.accounts import account_data
from hs.storage.accounts.account_data import DELETED
from hs.storage.database import Tx
from hs.storage.ephemeral import receipts

TAG = "m.tag"
FULLY_READ = "m.fully_read"

MAX_TAGS_BYTES = 65_536  # of one room: each change of a tag rewrites all of them

Written = tuple[None, list[tuple[int, AccountDataRow]]]


class AccountDataWriter(Protocol):
    """The writer of account data: local, or the proxy of another process."""

    @rpc
    async def put(self, user_id: UserID, room_id: str, type_: str, content: bytes) -> None:
        """Set an entry, or delete it if `content` is DELETED; `room_id` is "" if global."""
        ...

    @rpc
    async def delete(self, user_id: UserID, room_id: str, type_: str) -> None:
        """Delete an entry, if it exists."""
        ...

    @rpc
    async def move_fully_read(
        self, user_id: UserID, room_id: RoomID, event_id: EventID, stream_id: int
    ) -> None:
        """Move the fully-read marker of a room to an event, unless it is further on already."""
        ...

    @rpc
    async def put_tag(self, user_id: UserID, room_id: RoomID, tag: str, content: bytes) -> None:
        """Set a tag of a room."""
        ...

    @rpc
    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Remove a tag of a room, if it is set."""
        ...


@attrs.define(eq=False)
class LocalAccountDataWriter:
    """The writer in a process that owns the stream, or a share of the users."""

    _stream: TableWriter[AccountDataRow]

    async def put(self, user_id: UserID, room_id: str, type_: str, content: bytes) -> None:
        """Set an entry, or delete it; an equal content is not a change."""
        await self._stream.write(_put, user_id, room_id, type_, content)

    async def delete(self, user_id: UserID, room_id: str, type_: str) -> None:
        """Delete an entry, if it exists."""
        await self._stream.write(_delete, user_id, room_id, type_)

    async def move_fully_read(
        self, user_id: UserID, room_id: RoomID, event_id: EventID, stream_id: int
    ) -> None:
        """Move the fully-read marker of a room to an event, unless it is further on already."""
        await self._stream.write(_move_fully_read, user_id, room_id, event_id, stream_id)

    async def put_tag(self, user_id: UserID, room_id: RoomID, tag: str, content: bytes) -> None:
        """Set a tag of a room."""
        await self._stream.write(_put_tag, user_id, room_id, tag, content)

    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Remove a tag of a room, if it is set."""
        await self._stream.write(_remove_tag, user_id, room_id, tag)


def check_size_of_tags(encoded: bytes) -> None:
    """Raises: TooLarge if the tags of a room are too large."""
    if len(encoded) > MAX_TAGS_BYTES:
        raise TooLarge(f"The tags of a room must not be larger than {MAX_TAGS_BYTES} bytes")


def tags_in(content: bytes | None) -> dict[str, Any]:
    """Return the tags in an entry of the type m.tag."""
    tags = orjson.loads(content).get("tags") if content is not None else None
    return tags if isinstance(tags, dict) else {}


async def _put(
    tx: Tx, ids: StreamIds, user_id: str, room_id: str, type_: str, content: bytes
) -> Written:
    if await account_data.get(tx, user_id, room_id, type_) == content:
        return None, []
    stream_id = await ids.next_id()
    stored_content = shrink_to_fit(content)
    await account_data.put(tx, user_id, room_id, type_, stored_content, stream_id)
    return None, [(stream_id, AccountDataRow(user_id, room_id or None, type_, stored_content))]


async def _delete(tx: Tx, ids: StreamIds, user_id: str, room_id: str, type_: str) -> Written:
    if await account_data.get(tx, user_id, room_id, type_) is None:
        return None, []
    stream_id = await ids.next_id()
    await account_data.put(tx, user_id, room_id, type_, DELETED, stream_id)
    return None, [(stream_id, AccountDataRow(user_id, room_id or None, type_, DELETED))]


async def _move_fully_read(
    tx: Tx, ids: StreamIds, user_id: str, room_id: str, event_id: str, stream_id: int
) -> Written:
    stored = await account_data.get(tx, user_id, room_id, FULLY_READ)
    current = None if stored is None else orjson.loads(stored).get("event_id")
    if isinstance(current, str):
        location = await receipts.event_position(tx, current)
        if location is not None and location[1] >= stream_id:
            return None, []
    return await _put(tx, ids, user_id, room_id, FULLY_READ, orjson.dumps({"event_id": event_id}))


async def _put_tag(
    tx: Tx, ids: StreamIds, user_id: str, room_id: str, tag: str, content: bytes
) -> Written:
    tags = tags_in(await account_data.get(tx, user_id, room_id, TAG))
    tags[tag] = orjson.loads(content)
    encoded = orjson.dumps({"tags": tags})
    check_size_of_tags(encoded)
    return await _put(tx, ids, user_id, room_id, TAG, encoded)


async def _remove_tag(tx: Tx, ids: StreamIds, user_id: str, room_id: str, tag: str) -> Written:
    tags = tags_in(await account_data.get(tx, user_id, room_id, TAG))
    if tag not in tags:
        return None, []
    del tags[tag]
    return await _put(tx, ids, user_id, room_id, TAG, orjson.dumps({"tags": tags}))
