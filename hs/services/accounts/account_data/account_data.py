"""Account data, cached in every process.

Tags are room account data of the type m.tag, fully-read markers of the type m.fully_read.

Rules:

- The cache holds an immutable map per user. The feed advances cached maps row by row, so that
  /sync needs no database reads. A row for a user whose map is not cached, or is being loaded,
  invalidates the entry, so that a load which began before the row's commit is not kept. The same
  applies to rows without content, from a replay of the stream.
- Deleted entries stay in the table and in the map with the content DELETED, so that an incremental
  sync reports the deletion, as `{}`.
- Requests of clients (`get`, `tags`) read the database: a client may have written through another
  process whose rows have not arrived here. So does whoever changes what is stored (`stored`).

Spec: client-server API, Client Config; Room Tagging; Ignoring Users.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import attrs
import immutables
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, InvalidParam, MatrixError, NotFound, TooLarge
from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import ACCOUNT_DATA, AccountDataRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.services.accounts.account_data.account_data_writer import (
    FULLY_READ,
    TAG,
    AccountDataWriter,
    check_size_of_tags,
    tags_in,
)
from hs.storage.accounts import account_data
from hs.storage.accounts.account_data import DELETED, GLOBAL
from hs.storage.database import Database

PUSH_RULES = "m.push_rules"
IGNORED_USER_LIST = "m.ignored_user_list"
DIRECT = "m.direct"

CACHED_USERS = 10_000
CACHED_BYTES = 64 * 1024 * 1024
MAX_TYPE_BYTES = 255
MAX_TAG_BYTES = 255
MAX_ENTRIES = 100_000  # of one user
MAX_BYTES = 16 * 1024 * 1024  # of one user
_ENTRY_BYTES = 300  # in memory, beside the content
_SERVER_MANAGED = frozenset((FULLY_READ, PUSH_RULES))


class AccountDataEntry(NamedTuple):
    """An entry: global if `room_id` is None, else of a room; `content` is encoded JSON."""

    room_id: RoomID | None
    type: str
    content: bytes


class _Versioned(NamedTuple):
    stream_id: int
    entry: AccountDataEntry


_Key = tuple[str, str]


@attrs.frozen(eq=False)
class _UserData:
    """The entries of a user, and the bytes of their contents."""

    entries: immutables.Map[_Key, _Versioned] = immutables.Map()
    size: int = 0

    def replace(self, key: _Key, versioned: _Versioned) -> "_UserData":
        """Return the entries with one that is new or changed."""
        size = self.size + len(versioned.entry.content) - self.size_of(key)
        return _UserData(self.entries.set(key, versioned), size)

    def size_of(self, key: _Key) -> int:
        """Return the bytes of an entry, 0 if it does not exist."""
        versioned = self.entries.get(key)
        return 0 if versioned is None else len(versioned.entry.content)


def _weigh(user_id: UserID, user_data: _UserData) -> int:
    return user_data.size + _ENTRY_BYTES * (1 + len(user_data.entries))


@attrs.define(eq=False)
class AccountDataService:
    """The account data of local users."""

    _database: Database
    _feed: Feed
    _writer: AccountDataWriter
    _entries: LruCache[UserID, _UserData] = attrs.field(init=False)
    _cache: LoadingCache[UserID, _UserData] = attrs.field(init=False)
    _ignored: LruCache[UserID, tuple[bytes, frozenset[UserID]]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._entries = LruCache(
            "account_data", max_entries=CACHED_USERS, max_weight=CACHED_BYTES, weigh=_weigh
        )
        self._cache = LoadingCache(self._entries, self._load)
        self._ignored = LruCache(
            "ignored_users",
            max_entries=CACHED_USERS,
            max_weight=CACHED_BYTES,
            weigh=lambda _, parsed: _ENTRY_BYTES + 4 * len(parsed[0]),
        )
        self._feed.subscribe(ACCOUNT_DATA, self._on_account_data)

    @property
    def cache(self) -> LruCache[UserID, _UserData]:
        """The cache of the users' entries."""
        return self._entries

    async def all(self, user_id: UserID) -> list[AccountDataEntry]:
        """Return all account data of a user except push rules."""
        entries = (await self._cache.get(user_id)).entries
        return [
            versioned.entry for versioned in entries.values() if versioned.entry.content != DELETED
        ]

    async def changes(self, user_id: UserID, after: int, upto: int) -> list[AccountDataEntry]:
        """Return the entries that changed in `(after, upto]` of the stream, the oldest first.

        Deleted entries have the content `{}`. Initial syncs must use `all` instead.
        """
        entries = (await self._cache.get(user_id)).entries
        changed = [
            versioned for versioned in entries.values() if after < versioned.stream_id <= upto
        ]
        changed.sort(key=lambda versioned: versioned.stream_id)
        return [
            versioned.entry._replace(content=b"{}")
            if versioned.entry.content == DELETED
            else versioned.entry
            for versioned in changed
        ]

    async def content(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes | None:
        """Return the content of an entry as JSON, or None."""
        versioned = (await self._cache.get(user_id)).entries.get((room_id or GLOBAL, type_))
        return (
            None
            if versioned is None or versioned.entry.content == DELETED
            else versioned.entry.content
        )

    async def get(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes:
        """Return the content of an entry as JSON, from the database.

        Raises: NotFound.
        """
        content = await self.stored(user_id, room_id, type_)
        if content is None:
            raise NotFound("No account data of this type")
        return content

    async def put(
        self, user_id: UserID, room_id: RoomID | None, type_: str, content: JsonObject
    ) -> None:
        """Set an entry for a client; an empty object deletes it (MSC3391).

        Raises: MatrixError 405 M_BAD_JSON for types managed by the server; InvalidParam; BadJson;
        TooLarge.
        """
        _check_client_may_set(type_)
        if not type_ or len(type_.encode()) > MAX_TYPE_BYTES:
            raise InvalidParam(f"'type' must have 1 to {MAX_TYPE_BYTES} bytes")
        if type_ == TAG and room_id is not None:
            _check_tags(content)
            check_size_of_tags(orjson.dumps(content))
        user_data = await self._cache.get(user_id)
        _check_entries(user_data, (room_id or GLOBAL, type_))
        # A deletion is written even if there is no entry: clients wait for their change in /sync.
        encoded = orjson.dumps(content) if content else DELETED
        _check_growth(user_data, len(encoded) - user_data.size_of((room_id or GLOBAL, type_)))
        await self._writer.put(user_id, room_id or GLOBAL, type_, encoded)

    async def delete(self, user_id: UserID, room_id: RoomID | None, type_: str) -> None:
        """Delete an entry for a client, if it exists.

        Raises: MatrixError 405 M_BAD_JSON for types managed by the server.
        """
        _check_client_may_set(type_)
        await self._writer.delete(user_id, room_id or GLOBAL, type_)

    async def tags(self, user_id: UserID, room_id: RoomID) -> dict[str, Any]:
        """Return a room's tags with their contents, from the database."""
        return tags_in(await self.stored(user_id, room_id, TAG))

    async def put_tag(
        self, user_id: UserID, room_id: RoomID, tag: str, content: JsonObject
    ) -> None:
        """Set a tag of a room.

        Raises: InvalidParam, BadJson, TooLarge.
        """
        if not tag or len(tag.encode()) > MAX_TAG_BYTES:
            raise InvalidParam(f"'tag' must have 1 to {MAX_TAG_BYTES} bytes")
        _check_tag(content)
        encoded = orjson.dumps(content)
        user_data = await self._cache.get(user_id)
        _check_entries(user_data, (room_id, TAG))
        _check_growth(user_data, len(encoded))
        await self._writer.put_tag(user_id, room_id, tag, encoded)

    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Remove a tag of a room, if it is set."""
        await self._writer.remove_tag(user_id, room_id, tag)

    async def move_fully_read(
        self, user_id: UserID, room_id: RoomID, event_id: EventID, stream_id: int
    ) -> None:
        """Move the user's fully-read marker forward to an event of the room."""
        await self._writer.move_fully_read(user_id, room_id, event_id, stream_id)

    async def ignored_by(self, user_id: UserID) -> frozenset[UserID]:
        """Return the users that a user ignores."""
        content = await self.content(user_id, None, IGNORED_USER_LIST)
        if content is None:
            return frozenset()
        parsed = self._ignored.get(user_id)
        if parsed is None or parsed[0] is not content:
            # A user cannot ignore themselves, even if a client stores this.
            parsed = (content, _ignored_in(content) - {user_id})
            self._ignored.put(user_id, parsed)
        return parsed[1]

    async def stored(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes | None:
        """Return the content of an entry as JSON, from the database, or None."""
        # Not from the cache: the client's own write through another process may not have arrived
        # here, and the request names no position to wait for.
        return await self._database.read(account_data.get, user_id, room_id or GLOBAL, type_)

    async def _load(self, user_id: UserID) -> _UserData:
        rows = await self._database.read(account_data.list_all, user_id)
        entries: immutables.Map[_Key, _Versioned] = immutables.Map(
            {
                (row.room_id, row.type): _Versioned(
                    row.stream_id, _entry(row.room_id, row.type, row.content)
                )
                for row in rows
            }
        )
        return _UserData(entries, sum(len(row.content) for row in rows))

    def _on_account_data(self, batch: Batch[AccountDataRow]) -> None:
        for stream_id, row in batch.rows:
            user_id = UserID(row.user_id)
            user_data = self._entries.get(user_id)
            if user_data is None or row.content is None:
                # Not cached, or being loaded: a load that begins from now on sees the change.
                self._cache.invalidate(user_id)
                continue
            room_id = row.room_id or GLOBAL
            known = user_data.entries.get((room_id, row.type))
            if known is not None and known.stream_id >= stream_id:
                continue  # read ahead of the feed, or written by a later owner of the user
            versioned = _Versioned(stream_id, _entry(room_id, row.type, row.content))
            self._entries.put(user_id, user_data.replace((room_id, row.type), versioned))


def _check_growth(user_data: _UserData, growth: int) -> None:
    """Raises: TooLarge if a change would make the data of a user too large."""
    if growth > 0 and user_data.size + growth > MAX_BYTES:
        raise TooLarge(f"The account data of a user must not be larger than {MAX_BYTES} bytes")


def _check_entries(user_data: _UserData, key: _Key) -> None:
    """Raises: InvalidParam if a new entry would be one too many."""
    if len(user_data.entries) >= MAX_ENTRIES and key not in user_data.entries:
        raise InvalidParam("The account data has too many entries")


def _check_client_may_set(type_: str) -> None:
    if type_ in _SERVER_MANAGED:
        raise MatrixError("M_BAD_JSON", 405, f"{type_} cannot be set through this endpoint")


def _entry(room_id: str, type_: str, content: bytes) -> AccountDataEntry:
    return AccountDataEntry(RoomID(room_id) if room_id else None, type_, content)


def _ignored_in(content: bytes) -> frozenset[UserID]:
    users = orjson.loads(content).get("ignored_users")
    return frozenset(map(UserID, users)) if isinstance(users, dict) else frozenset()


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
