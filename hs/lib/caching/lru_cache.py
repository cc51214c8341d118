"""A cache of bounded weight that forgets what was not used for longest."""

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

_gathering: ContextVar["WeakSet[LruCache[Any, Any]] | None"] = ContextVar("gathering", default=None)


@contextmanager
def gathered_caches() -> Iterator["WeakSet[LruCache[Any, Any]]"]:
    """Gather the caches made in the block, for metrics; the set does not keep them alive.

    A cache is made deep inside of its owner, who alone knows it; so that none is left out, they
    are noted where they are made, and not listed by hand.
    """
    caches: WeakSet[LruCache[Any, Any]] = WeakSet()
    outer = _gathering.set(caches)
    try:
        yield caches
    finally:
        _gathering.reset(outer)


class LruCache(Generic[K, V]):
    """Maps keys to values up to a number of entries, or up to a sum of weights.

    Its counters are plain integers, which metrics read when they are asked.
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
            raise ValueError("a cache wants max_entries, or max_weight and weigh, or all three")
        self.name = name
        self.hits = self.misses = self.evictions = 0
        self._max_entries = max_entries
        self._max_weight = max_weight
        self._weigh = weigh
        self._weight = 0
        self._entries: OrderedDict[K, V] = OrderedDict()
        gathering = _gathering.get()
        if gathering is not None:
            gathering.add(self)

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: D) -> V | D: ...

    def get(self, key: K, default: D | None = None) -> V | D | None:
        """Return the value, which counts as its use."""
        entries = self._entries
        try:
            value = entries[key]
        except KeyError:
            self.misses += 1
            return default
        entries.move_to_end(key)
        self.hits += 1
        return value

    def get_kept(self, keys: Iterable[K]) -> dict[K, V]:
        """Give those of many keys that are kept, in the order asked for; each counts as used."""
        entries = self._entries
        found: dict[K, V] = {}
        missing = 0
        for key in keys:
            try:
                found[key] = entries[key]
            except KeyError:
                missing += 1
        self._touch(found)
        self.hits += len(found)
        self.misses += missing
        return found

    def get_all(self, keys: Collection[K]) -> list[V] | None:
        """Give the values of many keys, each of which counts as used.

        None, which does not count at all: some are not kept.
        """
        entries = self._entries
        try:
            found = [entries[key] for key in keys]
        except KeyError:
            return None
        self._touch(keys)
        self.hits += len(found)
        return found

    def _touch(self, keys: Iterable[K]) -> None:
        # Nothing is dropped soon before it is half full: the order hardly matters until then.
        if 2 * self.weight > self.limit:
            touch = self._entries.move_to_end
            for key in keys:
                touch(key)

    def kept_among(self, keys: Iterable[K]) -> AbstractSet[K]:
        """Say which of many keys are kept; it does not count as their use."""
        return self._entries.keys() & keys

    def put(self, key: K, value: V) -> None:
        """Keep a value; one that alone exceeds the bound is not kept."""
        self.pop(key)
        self._entries[key] = value
        if self._weigh is not None:
            self._weight += self._weigh(key, value)
        while self._is_over():
            self._drop(*self._entries.popitem(last=False))
            self.evictions += 1

    def pop(self, key: K) -> None:
        """Forget a key, known or not."""
        if key in self._entries:
            self._drop(key, self._entries.pop(key))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._weight = 0

    def resize(self, *, max_entries: int | None = None, max_weight: int | None = None) -> None:
        """Change the given bounds, forgetting what is too much now."""
        self._max_entries = max_entries or self._max_entries
        self._max_weight = max_weight or self._max_weight
        while self._is_over():
            self._drop(*self._entries.popitem(last=False))
            self.evictions += 1

    @property
    def weight(self) -> int:
        """The sum of weights, or the number of entries."""
        return len(self._entries) if self._weigh is None else self._weight

    @property
    def limit(self) -> int:
        """The bound of `weight`."""
        bound = self._max_entries if self._weigh is None else self._max_weight
        assert bound is not None
        return bound

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def _is_over(self) -> bool:
        too_many = self._max_entries is not None and len(self._entries) > self._max_entries
        return too_many or (self._max_weight is not None and self._weight > self._max_weight)

    def _drop(self, key: K, value: V) -> None:
        # A value must weigh the same as when it came in: weigh what does not change.
        if self._weigh is not None:
            self._weight -= self._weigh(key, value)
