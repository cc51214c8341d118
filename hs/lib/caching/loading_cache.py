"""Caches that fetch what they lack, and never keep what went stale meanwhile."""

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MISSING = object()


class LoadingCache(Generic[K, V]):
    """An LruCache in front of a function that loads one key.

    A key invalidated while it is being loaded is not kept; who asks after the invalidation
    gets a load that began after it.
    """

    def __init__(self, entries: LruCache[K, V], load: Callable[[K], Awaitable[V]]) -> None:
        self._entries = entries
        self._load = load
        self._flights: SingleFlight[K] = SingleFlight()
        self._loading: dict[K, object] = {}

    async def get(self, key: K) -> V:
        """Return the value, loading it when it is not kept; a kept one comes without yielding.

        Raises: what loading raises, to all who wait for it; failures are not kept.
        """
        kept = self._entries.get(key, _MISSING)
        if kept is not _MISSING:
            return kept  # type: ignore[return-value]  # the sentinel is the only other value
        return await self._flights.run(key, self._load_one, key)

    @property
    def is_loading(self) -> bool:
        """Tell whether anything is being loaded."""
        return bool(self._loading)

    def invalidate(self, key: K) -> None:
        """Forget a key."""
        self._entries.pop(key)
        if self._loading.pop(key, None) is not None:
            self._flights.forget(key)

    def invalidate_many(self, keys: Iterable[K]) -> None:
        """Forget many keys, few of which are likely to be here."""
        wanted = frozenset(keys)
        for key in self._entries.kept_among(wanted) | (self._loading.keys() & wanted):
            self.invalidate(key)

    def invalidate_all(self) -> None:
        """Forget everything."""
        self._entries.clear()
        for key in list(self._loading):
            self.invalidate(key)

    async def _load_one(self, key: K) -> V:
        mine = self._loading[key] = object()
        try:
            value = await self._load(key)
            if self._loading.get(key) is mine:
                self._entries.put(key, value)
            return value
        finally:
            if self._loading.get(key) is mine:
                del self._loading[key]


class LoadingManyCache(Generic[K, V]):
    """An LruCache in front of a function that loads many keys by one question.

    Keys invalidated while they are being loaded are not kept.
    """

    def __init__(
        self, entries: LruCache[K, V], load: Callable[[list[K]], Awaitable[Mapping[K, V]]]
    ) -> None:
        self._entries = entries
        self._load = load
        # For each loading under way, the keys that went stale meanwhile.
        self._loadings: list[set[K]] = []

    async def get(self, keys: Collection[K]) -> dict[K, V]:
        """Give the values of different keys, loading those that are not kept.

        Raises: what loading raises.
        """
        found = self._entries.get_kept(keys)
        if len(found) < len(keys):
            found.update(await self._load_missing([key for key in keys if key not in found]))
        return found

    def get_nowait(self, key: K) -> V | None:
        """Give a value, if it is kept."""
        return self._entries.get(key)

    def invalidate(self, key: K) -> None:
        """Forget a key."""
        self._entries.pop(key)
        for stale in self._loadings:
            stale.add(key)

    async def _load_missing(self, keys: list[K]) -> Mapping[K, V]:
        stale: set[K] = set()
        self._loadings.append(stale)
        try:
            loaded = await self._load(keys)
        finally:
            self._loadings = [one for one in self._loadings if one is not stale]
        for key, value in loaded.items():
            if key not in stale:
                self._entries.put(key, value)
        return loaded
