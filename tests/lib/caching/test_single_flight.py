"""Equal calls are joined."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.lib.caching.single_flight import SingleFlight


async def test_an_error_reaches_everybody_who_waits() -> None:
    flights: SingleFlight[str] = SingleFlight()
    calls, errors = [], []

    async def fail() -> None:
        calls.append(1)
        await wait_all_tasks_blocked()
        raise KeyError("no")

    async def ask() -> None:
        with pytest.raises(KeyError):
            await flights.run("key", fail)
        errors.append(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)

    assert (len(calls), len(errors)) == (1, 3)


async def test_when_the_one_at_work_is_cancelled_another_takes_over() -> None:
    flights: SingleFlight[str] = SingleFlight()
    calls, answers = [], []
    first = trio.CancelScope()

    async def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            await trio.sleep_forever()
        return 7

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await flights.run("key", work))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, first)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()

    assert answers == [7]
    assert len(calls) == 2


async def test_later_calls_work_anew() -> None:
    flights: SingleFlight[str] = SingleFlight()
    numbers = iter(range(9))

    async def work() -> int:
        return next(numbers)

    assert [await flights.run("key", work), await flights.run("key", work)] == [0, 1]
