"""A cache of bounded size that evicts the least recently used entries."""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, overload
from weakref import WeakSet

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")

# Scanned entries may keep 1 / SCANNED_PART of a full cache.
SCANNED_PART = 4

_collecting: ContextVar["WeakSet[LruCache[Any, Any]] | None"] = ContextVar(
    "gathering", default=None
)


@contextmanager
def collect_caches() -> Iterator["WeakSet[LruCache[Any, Any]]"]:
    """Collect the caches created in the block, for metrics, without keeping them alive.

    Caches are created deep inside the components that own them. Recording them at creation makes
    sure that metrics miss none.
    """
    caches: WeakSet[LruCache[Any, Any]] = WeakSet()
    outer = _collecting.set(caches)
    try:
        yield caches
    finally:
        _collecting.reset(outer)


class LruCache(Generic[K, V]):
    """A mapping bounded by the number of its entries, or by the sum of their weights.

    The counters are plain integers, which metrics read at scrape time.
    """

    def __init__(
        self,
        name: str,
        *,
        max_entries: int | None = None,
        max_weight: int | None = None,
        weigh: Callable[[K, V], int] | None = None,
    ) -> None:
        if (max_weight is None) != (weigh is None) or (max_entries is None and weigh is None):
            raise ValueError("a cache needs max_entries, or max_weight and weigh, or all three")
        self.name = name
        self.hits = self.misses = self.evictions = 0
        self._max_entries = max_entries
        self._max_weight = max_weight
        self._entries_limit = self._weight_limit = math.inf
        self._set_limits()
        self._weigh = weigh
        self._weight = 0
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._scanned: OrderedDict[K, int] = OrderedDict()  # the weights of scanned entries
        self._scanned_weight = 0
        collected = _collecting.get()
        if collected is not None:
            collected.add(self)

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: D) -> V | D: ...

    def get(self, key: K, default: D | None = None) -> V | D | None:
        """Return the value of a key; this counts as a use."""
        entries = self._entries
        try:
            value = entries[key]
        except KeyError:
            self.misses += 1
            return default
        entries.move_to_end(key)
        self.hits += 1
        return value

    def get_cached(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the cached entries among many keys, in the given order; this counts as a use."""
        entries = self._entries
        cached: dict[K, V] = {}
        missing = 0
        for key in keys:
            try:
                cached[key] = entries[key]
            except KeyError:
                missing += 1
        self._touch(cached)
        self.hits += len(cached)
        self.misses += missing
        return cached

    def get_all(self, keys: Collection[K]) -> list[V] | None:
        """Return the values of all keys in order, or None if any key is not cached.

        This counts as a use only if all are cached.
        """
        entries = self._entries
        try:
            values = [entries[key] for key in keys]
        except KeyError:
            return None
        self._touch(keys)
        self.hits += len(values)
        return values

    def _touch(self, keys: Iterable[K]) -> None:
        # While the cache is less than half full, nothing will be evicted soon, so that the order
        # does not matter yet.
        if 2 * self.weight > self.limit:
            touch = self._entries.move_to_end
            for key in keys:
                touch(key)

    def cached_among(self, keys: Iterable[K]) -> AbstractSet[K]:
        """Return which of many keys are cached; this does not count as a use."""
        return self._entries.keys() & keys

    def put(self, key: K, value: V) -> None:
        """Store a value, unless it alone exceeds the bound."""
        # Without calls of other methods: every row of the feed is put into several caches.
        entries, weigh = self._entries, self._weigh
        if key in entries:
            self._drop(key, entries.pop(key))
        entries[key] = value
        if weigh is not None:
            self._weight += weigh(key, value)
        while len(entries) > self._entries_limit or self._weight > self._weight_limit:
            self._drop(*entries.popitem(last=False))
            self.evictions += 1

    def put_scanned(self, key: K, value: V) -> None:
        """Store a value that was read by a scan; see `put_all_scanned`."""
        self.put_all_scanned(((key, value),))

    def put_all_scanned(self, pairs: Iterable[tuple[K, V]]) -> None:
        """Store values of a scan, which may read more than the cache holds.

        When the cache is full and a part of it has been scanned, they evict only entries of
        earlier scans: the rest stays, and what is scanned again and again is cached, too.
        """
        weigh, share = self._weigh, self.limit // SCANNED_PART
        for key, value in pairs:
            self.pop(key)
            weight = 1 if weigh is None else weigh(key, value)
            self._entries[key] = value
            if weigh is not None:
                self._weight += weight
            self._scanned[key] = weight
            self._scanned_weight += weight
            while self._is_over():
                if self._scanned_weight > share:
                    self.pop(next(iter(self._scanned)))
                    self.evictions += 1
                else:
                    self._evict()

    def pop(self, key: K) -> None:
        """Remove a key if it is cached."""
        if key in self._entries:
            self._drop(key, self._entries.pop(key))

    def clear(self) -> None:
        """Remove all keys."""
        self._entries.clear()
        self._scanned.clear()
        self._weight = self._scanned_weight = 0

    def resize(self, *, max_entries: int | None = None, max_weight: int | None = None) -> None:
        """Change the given bounds and evict entries until they hold."""
        self._max_entries = max_entries or self._max_entries
        self._max_weight = max_weight or self._max_weight
        self._set_limits()
        while self._is_over():
            self._evict()

    @property
    def weight(self) -> int:
        """The sum of the weights, or the number of entries if there are no weights."""
        return len(self._entries) if self._weigh is None else self._weight

    @property
    def limit(self) -> int:
        """The largest allowed `weight`."""
        bound = self._max_entries if self._weigh is None else self._max_weight
        assert bound is not None
        return bound

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def _set_limits(self) -> None:
        self._entries_limit = math.inf if self._max_entries is None else self._max_entries
        self._weight_limit = math.inf if self._max_weight is None else self._max_weight

    def _is_over(self) -> bool:
        return len(self._entries) > self._entries_limit or self._weight > self._weight_limit

    def _evict(self) -> None:
        self._drop(*self._entries.popitem(last=False))
        self.evictions += 1

    def _drop(self, key: K, value: V) -> None:
        if key in self._scanned:
            self._scanned_weight -= self._scanned.pop(key)
        # `weigh` must return the same as when the value was stored: it must not depend on parts
        # of the value that change.
        if self._weigh is not None:
            self._weight -= self._weigh(key, value)
