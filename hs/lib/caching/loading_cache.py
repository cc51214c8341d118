"""Caches that load missing keys, without storing a value that became stale while it loaded.

Rules:

- A value in the cache is returned without yielding to other tasks.
- `LoadingCache` runs at most one load of a key at a time; equal calls wait for it. Failures are
  raised in all waiting callers and are not stored.
- `invalidate` may be called while the key is loading; the running load may have read the old value.
  Its result goes to those who already wait, as they asked before the change, but is not stored, and
  the next call begins a new load. So a call of `get` after an invalidation never returns a value
  read before it.
- For this, each load registers itself: `LoadingCache` by a token in `_loading`, which an
  invalidation removes; `LoadingManyCache` by a set of stale keys, to which invalidations add. A
  load stores only what is still valid when it ends. No await lies between that check and the
  storing.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MISSING = object()


class LoadingCache(Generic[K, V]):
    """An LruCache in front of a function that loads one key."""

    def __init__(self, entries: LruCache[K, V], load: Callable[[K], Awaitable[V]]) -> None:
        self._entries = entries
        self._load = load
        self._flights: SingleFlight[K] = SingleFlight()
        self._loading: dict[K, object] = {}

    async def get(self, key: K) -> V:
        """Return the value of a key, loading it if it is not cached.

        Raises: the exception of the load, in all callers that wait for it.
        """
        cached = self._entries.get(key, _MISSING)
        if cached is not _MISSING:
            return cached  # type: ignore[return-value]  # the sentinel is the only other value
        return await self._flights.run(key, self._load_one, key)

    @property
    def is_loading(self) -> bool:
        """Whether any key is being loaded."""
        return bool(self._loading)

    def invalidate(self, key: K) -> None:
        """Remove a key, and do not store the result of a load that is running."""
        self._entries.pop(key)
        if self._loading.pop(key, None) is not None:
            self._flights.forget(key)

    def invalidate_many(self, keys: Iterable[K]) -> None:
        """Invalidate many keys, most of which are probably not cached."""
        invalid = frozenset(keys)
        for key in self._entries.cached_among(invalid) | (self._loading.keys() & invalid):
            self.invalidate(key)

    def invalidate_all(self) -> None:
        """Invalidate all keys."""
        self._entries.clear()
        for key in list(self._loading):
            self.invalidate(key)

    async def _load_one(self, key: K) -> V:
        token = self._loading[key] = object()
        try:
            value = await self._load(key)
            if self._loading.get(key) is token:
                self._entries.put(key, value)
            return value
        finally:
            if self._loading.get(key) is token:
                del self._loading[key]


class LoadingManyCache(Generic[K, V]):
    """An LruCache in front of a function that loads many keys in one query.

    Equal keys of concurrent calls are loaded by each call.
    """

    def __init__(
        self, entries: LruCache[K, V], load: Callable[[list[K]], Awaitable[Mapping[K, V]]]
    ) -> None:
        self._entries = entries
        self._load = load
        # For each running load, the keys that were invalidated since it began.
        self._stale_keys: list[set[K]] = []

    async def get(self, keys: Collection[K]) -> dict[K, V]:
        """Return the values of distinct keys, loading those that are not cached.

        Raises: the exception of the load.
        """
        values = self._entries.get_cached(keys)
        if len(values) < len(keys):
            values.update(await self._load_missing([key for key in keys if key not in values]))
        return values

    def get_nowait(self, key: K) -> V | None:
        """Return the value of a key, or None if it is not cached."""
        return self._entries.get(key)

    def invalidate(self, key: K) -> None:
        """Remove a key, and do not store what running loads return for it."""
        self._entries.pop(key)
        for stale in self._stale_keys:
            stale.add(key)

    async def _load_missing(self, keys: list[K]) -> Mapping[K, V]:
        stale: set[K] = set()
        self._stale_keys.append(stale)
        try:
            loaded = await self._load(keys)
        finally:
            # By identity: equal sets belong to other loads.
            self._stale_keys = [keys for keys in self._stale_keys if keys is not stale]
        for key, value in loaded.items():
            if key not in stale:
                self._entries.put(key, value)
        return loaded
