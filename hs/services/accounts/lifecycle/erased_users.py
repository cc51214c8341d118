"""Erased users: deactivated users whose messages are hidden from new members."""

from collections.abc import Set as AbstractSet

import attrs

from hs.core.ids import UserID
from hs.core.streams import CACHES, CacheRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.services.accounts.sessions.authenticator import USERS
from hs.storage.accounts import users
from hs.storage.database import Database

_ALL = "all"
NO_USERS: frozenset[UserID] = frozenset()


@attrs.define(eq=False)
class ErasedUsersCache:
    """A cache of all erased users of this server, which are few."""

    _database: Database
    _feed: Feed
    _cache: LoadingCache[str, frozenset[UserID]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        entries: LruCache[str, frozenset[UserID]] = LruCache("erased_users", max_entries=1)
        self._cache = LoadingCache(entries, self._load)
        self._feed.subscribe(CACHES, self._on_caches)

    async def erased_among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]:
        """Return the subset of users who are erased."""
        erased = await self._cache.get(_ALL)
        return erased & user_ids if erased else NO_USERS

    async def _load(self, _: str) -> frozenset[UserID]:
        return frozenset(map(UserID, await self._database.read(users.erased_users)))

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset or any(row.cache == USERS for _, row in batch.rows):
            self._cache.invalidate_all()
