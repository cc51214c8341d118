"""Account data: read from memory, written by the one owner of the stream `account_data`.

What a user's entries are is kept per user and moved on by the feed, so that /sync reads nothing.
Tags are the type m.tag of a room; the marker of what was read is its type m.fully_read.

Spec: client-server API, Client Config; Room Tagging; Ignoring Users.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import attrs
import immutables
import orjson

from hs.core.canonical_json import JsonObject, for_keeping
from hs.core.errors import BadJson, InvalidParam, MatrixError, NotFound
from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import AccountDataRow
from hs.repl.rpc import rpc
from hs.repl.streams import ACCOUNT_DATA
from hs.repl.writers import StreamIds, TableWriter
from hs.storage.accounts import account_data
from hs.storage.accounts.account_data import DELETED, GLOBAL
from hs.storage.database import Database, Tx

TAG = "m.tag"
FULLY_READ = "m.fully_read"
PUSH_RULES = "m.push_rules"
IGNORED_USER_LIST = "m.ignored_user_list"
DIRECT = "m.direct"

CACHED_USERS = 10_000
MAX_TYPE_BYTES = 255
MAX_TAG_BYTES = 255
MAX_ENTRIES = 100_000  # of one user
_SERVERS_OWN = frozenset((FULLY_READ, PUSH_RULES))

Written = tuple[None, list[tuple[int, AccountDataRow]]]


class AccountDataEntry(NamedTuple):
    """One type of account data: of the account (room_id None) or of a room; `content` is JSON."""

    room_id: RoomID | None
    type: str
    content: bytes


class _Kept(NamedTuple):
    stream_id: int
    entry: AccountDataEntry


_Key = tuple[str, str]
_Map = immutables.Map[_Key, _Kept]


class AccountDataWriter(Protocol):
    """The owner of account data, perhaps in another process."""

    @rpc
    async def put(self, user_id: UserID, room_id: str, type_: str, content: bytes) -> None:
        """Set one piece, or delete it; `room_id` is "" for the account's own."""
        ...

    @rpc
    async def delete(self, user_id: UserID, room_id: str, type_: str) -> None:
        """Delete one piece, if it is there."""
        ...

    @rpc
    async def put_tag(self, user_id: UserID, room_id: RoomID, tag: str, content: bytes) -> None:
        """Set one tag of a room."""
        ...

    @rpc
    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Take one tag of a room away, if it is there."""
        ...


@attrs.define(eq=False)
class LocalAccountDataWriter:
    """The owner itself."""

    _stream: TableWriter[AccountDataRow]

    async def put(self, user_id: UserID, room_id: str, type_: str, content: bytes) -> None:
        """Set one piece, or delete it; setting what is there already is no change."""
        await self._stream.write(_put, user_id, room_id, type_, content)

    async def delete(self, user_id: UserID, room_id: str, type_: str) -> None:
        """Delete one piece, if it is there."""
        await self._stream.write(_delete, user_id, room_id, type_)

    async def put_tag(self, user_id: UserID, room_id: RoomID, tag: str, content: bytes) -> None:
        """Set one tag of a room."""
        await self._stream.write(_put_tag, user_id, room_id, tag, content)

    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Take one tag of a room away, if it is there."""
        await self._stream.write(_remove_tag, user_id, room_id, tag)


@attrs.define(eq=False)
class AccountData:
    """Reads and writes users' account data."""

    _database: Database
    _feed: Feed
    _writer: AccountDataWriter
    _entries: LruCache[UserID, _Map] = attrs.field(init=False)
    _known: LoadingCache[UserID, _Map] = attrs.field(init=False)
    _ignored: LruCache[UserID, tuple[bytes, frozenset[UserID]]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._entries = LruCache("account_data", max_entries=CACHED_USERS)
        self._known = LoadingCache(self._entries, self._load)
        self._ignored = LruCache("ignored_users", max_entries=CACHED_USERS)
        self._feed.subscribe(ACCOUNT_DATA, self._on_account_data)

    async def all(self, user_id: UserID) -> list[AccountDataEntry]:
        """Give all account data of a user, push rules excluded."""
        known = await self._known.get(user_id)
        return [kept.entry for kept in known.values() if kept.entry.content != DELETED]

    async def changes(self, user_id: UserID, after: int, upto: int) -> list[AccountDataEntry]:
        """Give what changed in `(after, upto]` of the stream, the oldest first.

        What was deleted has the content `{}`; first syncs must not show that.
        """
        known = await self._known.get(user_id)
        changed = [kept for kept in known.values() if after < kept.stream_id <= upto]
        changed.sort(key=lambda kept: kept.stream_id)
        return [
            kept.entry._replace(content=b"{}") if kept.entry.content == DELETED else kept.entry
            for kept in changed
        ]

    async def content(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes | None:
        """Give one piece as JSON."""
        kept = (await self._known.get(user_id)).get((room_id or GLOBAL, type_))
        return None if kept is None or kept.entry.content == DELETED else kept.entry.content

    async def get(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes:
        """Give one piece as JSON, whichever process has just set it.

        Raises: NotFound.
        """
        content = await self._stored(user_id, room_id or GLOBAL, type_)
        if content is None:
            raise NotFound("There is no account data of this type")
        return content

    async def put(
        self, user_id: UserID, room_id: RoomID | None, type_: str, content: JsonObject
    ) -> None:
        """Set one piece as a client asks; an empty object deletes it (MSC3391).

        Raises: MatrixError 405 M_BAD_JSON for types that the server keeps; InvalidParam; BadJson.
        """
        _check_clients_own(type_)
        if not type_ or len(type_.encode()) > MAX_TYPE_BYTES:
            raise InvalidParam(f"A type has 1 to {MAX_TYPE_BYTES} bytes")
        if type_ == TAG and room_id is not None:
            _check_tags(content)
        if len(await self._known.get(user_id)) >= MAX_ENTRIES:
            raise InvalidParam("There is too much account data already")
        # Told even if nothing was there: clients wait until a sync brings what they set.
        written = orjson.dumps(content) if content else DELETED
        await self._writer.put(user_id, room_id or GLOBAL, type_, written)

    async def delete(self, user_id: UserID, room_id: RoomID | None, type_: str) -> None:
        """Delete one piece as a client asks, if it is there.

        Raises: MatrixError 405 M_BAD_JSON for types that the server keeps.
        """
        _check_clients_own(type_)
        await self._writer.delete(user_id, room_id or GLOBAL, type_)

    async def tags(self, user_id: UserID, room_id: RoomID) -> dict[str, Any]:
        """Give a room's tags, each with its content, whichever process has just set them."""
        return _tags_in(await self._stored(user_id, room_id, TAG))

    async def put_tag(
        self, user_id: UserID, room_id: RoomID, tag: str, content: JsonObject
    ) -> None:
        """Tag a room.

        Raises: InvalidParam, BadJson.
        """
        if not tag or len(tag.encode()) > MAX_TAG_BYTES:
            raise InvalidParam(f"A tag has 1 to {MAX_TAG_BYTES} bytes")
        _check_tag(content)
        await self._writer.put_tag(user_id, room_id, tag, orjson.dumps(content))

    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Take a tag of a room away, if it is there."""
        await self._writer.remove_tag(user_id, room_id, tag)

    async def fully_read(self, user_id: UserID, room_id: RoomID) -> EventID | None:
        """Give the event that the user's marker in a room is at."""
        content = await self.content(user_id, room_id, FULLY_READ)
        event_id = None if content is None else orjson.loads(content).get("event_id")
        return EventID(event_id) if isinstance(event_id, str) else None

    async def set_fully_read(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> None:
        """Put the user's marker in a room at an event."""
        content = orjson.dumps({"event_id": event_id})
        await self._writer.put(user_id, room_id, FULLY_READ, content)

    async def ignored_by(self, user_id: UserID) -> frozenset[UserID]:
        """Give whom a user ignores."""
        content = await self.content(user_id, None, IGNORED_USER_LIST)
        if content is None:
            return frozenset()
        read = self._ignored.get(user_id)
        if read is None or read[0] is not content:
            # Nobody is without their own messages, whatever a client puts there.
            read = (content, _ignored_in(content) - {user_id})
            self._ignored.put(user_id, read)
        return read[1]

    async def _stored(self, user_id: UserID, room_id: str, type_: str) -> bytes | None:
        # Not from memory: a client that asks has been told of no position to wait for, and what
        # it wrote through another process may not have come here yet.
        return await self._database.read(account_data.get, user_id, room_id, type_)

    async def _load(self, user_id: UserID) -> _Map:
        rows = await self._database.read(account_data.all_of, user_id)
        return immutables.Map(
            {
                (row.room_id, row.type): _Kept(row.stream_id, _entry(row.room_id, row[1], row[2]))
                for row in rows
            }
        )

    def _on_account_data(self, batch: Batch[AccountDataRow]) -> None:
        for stream_id, row in batch.rows:
            user_id = UserID(row.user_id)
            known = self._entries.get(user_id)
            if known is None or row.content is None:
                # Not kept, or being loaded: what is read from now on has the change.
                self._known.invalidate(user_id)
                continue
            room_id = row.room_id or GLOBAL
            kept = _Kept(stream_id, _entry(room_id, row.type, row.content))
            self._entries.put(user_id, known.set((room_id, row.type), kept))


def _check_clients_own(type_: str) -> None:
    if type_ in _SERVERS_OWN:
        raise MatrixError("M_BAD_JSON", 405, f"{type_} cannot be set through this endpoint")


def _entry(room_id: str, type_: str, content: bytes) -> AccountDataEntry:
    return AccountDataEntry(RoomID(room_id) if room_id else None, type_, content)


def _ignored_in(content: bytes) -> frozenset[UserID]:
    users = orjson.loads(content).get("ignored_users")
    return frozenset(map(UserID, users)) if isinstance(users, dict) else frozenset()


def _tags_in(content: bytes | None) -> dict[str, Any]:
    tags = orjson.loads(content).get("tags") if content is not None else None
    return tags if isinstance(tags, dict) else {}


def _check_tags(content: Mapping[str, Any]) -> None:
    tags = content.get("tags", {})
    if not isinstance(tags, dict):
        raise BadJson("'tags' must be an object")
    for tag in tags.values():
        if not isinstance(tag, dict):
            raise BadJson("Each tag must be an object")
        _check_tag(tag)


def _check_tag(content: Mapping[str, Any]) -> None:
    order = content.get("order")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int | float)):
        raise BadJson("'order' must be a number")


async def _put(
    tx: Tx, ids: StreamIds, user_id: str, room_id: str, type_: str, content: bytes
) -> Written:
    if await account_data.get(tx, user_id, room_id, type_) == content:
        return None, []
    stream_id = await ids.one()
    kept = for_keeping(content)
    await account_data.put(tx, user_id, room_id, type_, kept, stream_id)
    return None, [(stream_id, AccountDataRow(user_id, room_id or None, type_, kept))]


async def _delete(tx: Tx, ids: StreamIds, user_id: str, room_id: str, type_: str) -> Written:
    if await account_data.get(tx, user_id, room_id, type_) is None:
        return None, []
    stream_id = await ids.one()
    await account_data.put(tx, user_id, room_id, type_, DELETED, stream_id)
    return None, [(stream_id, AccountDataRow(user_id, room_id or None, type_, DELETED))]


async def _put_tag(
    tx: Tx, ids: StreamIds, user_id: str, room_id: str, tag: str, content: bytes
) -> Written:
    tags = _tags_in(await account_data.get(tx, user_id, room_id, TAG))
    tags[tag] = orjson.loads(content)
    return await _put(tx, ids, user_id, room_id, TAG, orjson.dumps({"tags": tags}))


async def _remove_tag(tx: Tx, ids: StreamIds, user_id: str, room_id: str, tag: str) -> Written:
    tags = _tags_in(await account_data.get(tx, user_id, room_id, TAG))
    if tag not in tags:
        return None, []
    del tags[tag]
    return await _put(tx, ids, user_id, room_id, TAG, orjson.dumps({"tags": tags}))
