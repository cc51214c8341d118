"""A cache that fetches what it lacks, once for all who ask, and never keeps what went stale."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from hs.lib.cache import LruCache
from hs.lib.single_flight import SingleFlight

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
