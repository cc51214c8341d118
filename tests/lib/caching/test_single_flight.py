"""Joining of equal calls."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.lib.caching.single_flight import SingleFlight


async def test_exception_reaches_all_callers() -> None:
    flights: SingleFlight[str] = SingleFlight()
    calls, errors = [], []

    async def fail() -> None:
        calls.append(1)
        await wait_all_tasks_blocked()
        raise KeyError("no")

    async def call() -> None:
        with pytest.raises(KeyError):
            await flights.run("key", fail)
        errors.append(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)

    assert (len(calls), len(errors)) == (1, 3)


async def test_waiting_caller_takes_over_when_first_is_cancelled() -> None:
    flights: SingleFlight[str] = SingleFlight()
    calls, results = [], []
    first = trio.CancelScope()

    async def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            await trio.sleep_forever()
        return 7

    async def call(scope: trio.CancelScope) -> None:
        with scope:
            results.append(await flights.run("key", work))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, first)
        await wait_all_tasks_blocked()
        nursery.start_soon(call, trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()

    assert results == [7]
    assert len(calls) == 2


async def test_call_after_the_end_runs_again() -> None:
    flights: SingleFlight[str] = SingleFlight()
    numbers = iter(range(9))

    async def work() -> int:
        return next(numbers)

    assert [await flights.run("key", work), await flights.run("key", work)] == [0, 1]


async def test_calls_with_overlapping_keys_share_the_common_ones() -> None:
    flights: SingleFlight[str] = SingleFlight()
    release = trio.Event()
    calls: list[list[str]] = []
    results: dict[tuple[str, ...], dict[str, str]] = {}

    async def work(keys: list[str]) -> dict[str, str]:
        calls.append(keys)
        await release.wait()
        return {key: key.upper() for key in keys}

    async def call(*keys: str) -> None:
        results[keys] = await flights.run_many(keys, work)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "a", "b")
        await wait_all_tasks_blocked()
        nursery.start_soon(call, "b", "c")
        await wait_all_tasks_blocked()
        release.set()

    assert calls == [["a", "b"], ["c"]]
    assert results["a", "b"] == {"a": "A", "b": "B"}
    assert results["b", "c"] == {"b": "B", "c": "C"}


async def test_error_for_many_keys_reaches_callers_of_each() -> None:
    flights: SingleFlight[str] = SingleFlight()
    errors: list[str] = []

    async def fail(keys: list[str]) -> dict[str, str]:
        await wait_all_tasks_blocked()
        raise KeyError("no")

    async def call(*keys: str) -> None:
        with pytest.raises(KeyError):
            await flights.run_many(keys, fail)
        errors.extend(keys)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "a", "b")
        nursery.start_soon(call, "b")

    assert sorted(errors) == ["a", "b", "b"]
