"""The caches: bounds, eviction, loading and invalidation."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from hs.lib.caching.loading_cache import LoadingCache, LoadingManyCache
from hs.lib.caching.lru_cache import LruCache


def test_least_recently_used_entry_is_evicted_first() -> None:
    cache: LruCache[str, int] = LruCache("test", max_entries=2)
    cache.put("a", 1)
    cache.put("b", 2)

    cache.get("a")
    cache.put("c", 3)

    assert "b" not in cache
    assert (cache.get("a"), cache.get("c")) == (1, 3)
    assert cache.evictions == 1


def test_hits_and_misses_are_counted() -> None:
    cache: LruCache[str, int] = LruCache("test", max_entries=2)
    cache.put("a", 1)

    values = cache.get("a"), cache.get("b"), cache.get("b", -1)

    assert values == (1, None, -1)
    assert (cache.hits, cache.misses) == (1, 2)


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=12)), max_size=60))
def test_weight_is_sum_of_cached_values_and_within_bound(
    puts: list[tuple[int, bytes]],
) -> None:
    cache: LruCache[int, bytes] = LruCache("test", max_weight=20, weigh=lambda _, value: len(value))

    for key, value in puts:
        cache.put(key, value)
        assert cache.get(key) == value

    cached = [cache.get(key) for key in range(10) if key in cache]
    assert cache.weight == sum(len(value) for value in cached if value is not None) <= 20


def test_value_heavier_than_bound_is_not_stored() -> None:
    cache: LruCache[int, bytes] = LruCache("test", max_weight=3, weigh=lambda _, value: len(value))

    cache.put(1, b"1234")

    assert (len(cache), cache.weight) == (0, 0)


def test_scans_of_full_cache_evict_earlier_scans_and_leave_the_rest() -> None:
    cache: LruCache[str, str] = LruCache("test", max_weight=20, weigh=lambda _, value: len(value))
    for key in ("old", "older"):
        cache.put(key, "1234567")

    for key in ("a", "b", "c", "d"):
        cache.put_scanned(key, "123")

    assert [key for key in ("old", "older", "a", "b", "c", "d") if key in cache] == [
        "old",
        "older",
        "c",
        "d",
    ]
    assert cache.weight == 20


def test_what_is_scanned_again_is_cached_although_the_cache_is_full() -> None:
    cache: LruCache[int, int] = LruCache("test", max_entries=100)
    for number in range(100):
        cache.put(number, number)

    for key in range(100, 120):
        cache.put_scanned(key, key)

    assert cache.get_all(range(100, 120)) is not None
    assert cache.get_all(range(20, 100)) is not None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.binary(max_size=12)), max_size=60))
def test_weight_is_exact_whatever_is_scanned(puts: list[tuple[bool, int, bytes]]) -> None:
    cache: LruCache[int, bytes] = LruCache("test", max_weight=20, weigh=lambda _, value: len(value))

    for scanned, key, value in puts:
        (cache.put_scanned if scanned else cache.put)(key, value)

    cached = [cache.get(key) for key in range(10) if key in cache]
    assert cache.weight == sum(len(value) for value in cached if value is not None) <= 20


def test_resize_evicts_entries_at_once() -> None:
    cache: LruCache[int, int] = LruCache("test", max_entries=10)
    for number in range(10):
        cache.put(number, number)

    cache.resize(max_entries=3)

    assert [number for number in range(10) if number in cache] == [7, 8, 9]


async def test_missing_key_is_loaded_once_for_all_callers() -> None:
    loads = []

    async def load(key: int) -> int:
        loads.append(key)
        await wait_all_tasks_blocked()
        return key * 2

    cache = LoadingCache(LruCache[int, int]("test", max_entries=9), load)
    results: list[int] = []

    async def get() -> None:
        results.append(await cache.get(4))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(get)

    assert results == [8] * 5
    assert loads == [4]


async def test_key_invalidated_while_loading_is_not_stored() -> None:
    versions = iter(["stale", "fresh"])
    may_finish = trio.Event()

    async def load(_: int) -> str:
        version = next(versions)
        if version == "stale":
            await may_finish.wait()
        return version

    cache = LoadingCache(LruCache[int, str]("test", max_entries=9), load)
    results: list[str] = []

    async def get() -> None:
        results.append(await cache.get(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get)
        await wait_all_tasks_blocked()
        cache.invalidate(1)
        results.append(await cache.get(1))
        may_finish.set()

    assert results == ["fresh", "stale"]
    assert await cache.get(1) == "fresh"


async def test_invalidate_many_includes_keys_being_loaded() -> None:
    versions = {1: 0, 2: 0, 3: 0}
    may_finish = trio.Event()

    async def load(key: int) -> int:
        version = versions[key]
        if key == 3:
            await may_finish.wait()
        return version

    cache = LoadingCache(LruCache[int, int]("test", max_entries=9), load)
    for key in (1, 2):
        await cache.get(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, 3)
        await wait_all_tasks_blocked()
        versions = dict.fromkeys(versions, 1)
        cache.invalidate_many([2, 3, 4])
        may_finish.set()

    assert [await cache.get(key) for key in (1, 2, 3)] == [0, 1, 1]


async def test_failed_load_is_not_stored() -> None:
    loads = []

    async def load(_: int) -> int:
        loads.append(1)
        if len(loads) == 1:
            raise KeyError("once")
        return 5

    cache = LoadingCache(LruCache[int, int]("test", max_entries=9), load)

    with pytest.raises(KeyError, match="once"):
        await cache.get(1)

    assert await cache.get(1) == 5


def test_get_kept_counts_each_key_as_used() -> None:
    cache = LruCache[str, int]("test", max_entries=3)
    for key, value in (("a", 1), ("b", 2), ("c", 3)):
        cache.put(key, value)

    cached = cache.get_cached(["b", "unknown", "a"])
    cache.put("d", 4)

    assert list(cached.items()) == [("b", 2), ("a", 1)]
    assert (cache.hits, cache.misses) == (2, 1)
    assert "c" not in cache
    assert "b" in cache


def test_get_all_returns_all_values_or_none() -> None:
    cache = LruCache[str, int]("test", max_entries=3)
    for key, value in (("a", 1), ("b", 2), ("c", 3)):
        cache.put(key, value)

    values = cache.get_all(["b", "a", "b"])
    assert cache.get_all(["a", "unknown"]) is None
    cache.put("d", 4)

    assert values == [2, 1, 2]
    assert (cache.hits, cache.misses) == (3, 0)
    assert "c" not in cache
    assert "b" in cache


async def test_missing_keys_are_loaded_in_one_query() -> None:
    loads: list[list[int]] = []

    async def load(keys: list[int]) -> dict[int, int]:
        loads.append(keys)
        return {key: key * 2 for key in keys}

    cache = LoadingManyCache(LruCache[int, int]("test", max_entries=9), load)

    first, second = await cache.get([1, 2]), await cache.get([1, 2, 3])

    assert (first, second) == ({1: 2, 2: 4}, {1: 2, 2: 4, 3: 6})
    assert loads == [[1, 2], [3]]
    assert (cache.get_nowait(3), cache.get_nowait(4)) == (6, None)


async def test_keys_invalidated_while_loading_many_are_not_stored() -> None:
    versions = iter(["stale", "fresh"])
    may_finish = trio.Event()

    async def load(keys: list[int]) -> dict[int, str]:
        version = next(versions)
        if version == "stale":
            await may_finish.wait()
        return dict.fromkeys(keys, version)

    cache = LoadingManyCache(LruCache[int, str]("test", max_entries=9), load)
    results: list[dict[int, str]] = []

    async def get() -> None:
        results.append(await cache.get([1, 2]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get)
        await wait_all_tasks_blocked()
        cache.invalidate(1)
        may_finish.set()

    assert results == [{1: "stale", 2: "stale"}]
    assert await cache.get([1, 2]) == {1: "fresh", 2: "stale"}
