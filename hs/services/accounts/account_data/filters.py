"""Stored filters, which clients upload once and refer to by ID.

Spec: client-server API, Filtering.
"""

import hashlib
import re
from typing import Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import NotFound, TooLarge
from hs.core.filters import SyncFilter, parse_sync_filter, size_of
from hs.core.ids import UserID
from hs.lib.caching.lru_cache import LruCache
from hs.storage.accounts import filters
from hs.storage.database import Database, Tx

MAX_FILTERS: Final = 200  # of one user; the oldest are deleted
MAX_FILTER_BYTES: Final = 256 * 1024
CACHED = 10_000
CACHED_BYTES = 32 * 1024 * 1024
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@attrs.define(eq=False)
class StoredFilters:
    """The store of filters, with a cache of parsed ones."""

    _database: Database
    _parsed: LruCache[tuple[UserID, str], SyncFilter] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._parsed = LruCache(
            "filters",
            max_entries=CACHED,
            max_weight=CACHED_BYTES,
            weigh=lambda _, parsed: size_of(parsed),
        )

    @property
    def cache(self) -> LruCache[tuple[UserID, str], SyncFilter]:
        """The cache of parsed filters."""
        return self._parsed

    async def add(self, user_id: UserID, definition: JsonObject) -> str:
        """Store a filter and return its ID; equal filters have the same ID.

        Raises: BadJson, TooLarge.
        """
        parsed = parse_sync_filter(definition)
        content = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
        if len(content) > MAX_FILTER_BYTES:
            raise TooLarge(f"A filter must not be larger than {MAX_FILTER_BYTES} bytes")
        digest = hashlib.sha256(content).hexdigest()
        filter_id = str(await self._database.write(_add, user_id, digest, content))
        self._parsed.put((user_id, filter_id), parsed)
        return filter_id

    async def definition(self, user_id: UserID, filter_id: str) -> bytes:
        """Return a filter as JSON, as it was stored.

        Raises: NotFound.
        """
        content = None
        if _NUMBER.fullmatch(filter_id):
            content = await self._database.read(filters.get, user_id, int(filter_id))
        if content is None:
            raise NotFound("Filter not found")
        return content

    async def stored_filter(self, user_id: UserID, filter_id: str) -> SyncFilter:
        """Return a parsed filter.

        Raises: NotFound.
        """
        key = (user_id, filter_id)
        parsed = self._parsed.get(key)
        if parsed is None:
            parsed = parse_sync_filter(orjson.loads(await self.definition(user_id, filter_id)))
            self._parsed.put(key, parsed)
        return parsed


async def _add(tx: Tx, user_id: str, digest: str, content: bytes) -> int:
    return await filters.add(tx, user_id, digest, content, kept=MAX_FILTERS)
