"""The batcher: batching, errors, cancellation and shutdown."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.lib.batcher import Batcher, BatcherFull, BatcherStopped


class Doubler:
    """Doubles numbers in batches; each batch waits for the gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = trio.Semaphore(0)

    async def run(self, numbers: list[int]) -> list[int | Exception]:
        self.batches.append(numbers)
        await self.gate.acquire()
        if 13 in numbers:
            raise OSError("unlucky")
        return [KeyError(number) if number < 0 else number * 2 for number in numbers]


async def test_next_batch_collects_while_one_runs() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler.run, max_batch=10, max_waiting=100)
    results: dict[int, int] = {}

    async def submit(number: int) -> None:
        results[number] = await batcher.submit(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        async with trio.open_nursery() as callers:
            callers.start_soon(submit, 0)
            await wait_all_tasks_blocked()
            for number in range(1, 13):
                callers.start_soon(submit, number)
            await wait_all_tasks_blocked()
            for _ in range(3):
                doubler.gate.release()
        nursery.cancel_scope.cancel()

    assert [len(batch) for batch in doubler.batches] == [1, 10, 2]
    assert results == {number: number * 2 for number in range(13)}


async def test_errors_are_raised_in_their_callers() -> None:
    doubler = Doubler()
    doubler.gate = trio.Semaphore(2)
    batcher = Batcher(doubler.run, max_batch=10, max_waiting=100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        with pytest.raises(KeyError):
            await batcher.submit(-1)
        with pytest.raises(OSError, match="unlucky"):
            await batcher.submit(13)
        nursery.cancel_scope.cancel()


async def test_item_of_cancelled_caller_is_withdrawn() -> None:
    doubler = Doubler()
    doubler.gate = trio.Semaphore(9)
    batcher = Batcher(doubler.run, max_batch=10, max_waiting=100)

    with trio.move_on_after(0.01):
        await batcher.submit(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        assert await batcher.submit(6) == 12
        nursery.cancel_scope.cancel()

    assert doubler.batches == [[6]]


async def test_full_batcher_rejects_items() -> None:
    batcher = Batcher(Doubler().run, max_batch=1, max_waiting=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.submit, 1)
        await wait_all_tasks_blocked()
        with pytest.raises(BatcherFull):
            await batcher.submit(2)
        nursery.cancel_scope.cancel()


async def test_waiting_callers_get_batcher_stopped() -> None:
    batcher = Batcher(Doubler().run, max_batch=1, max_waiting=9)
    stopped = []

    async def submit(number: int) -> None:
        with pytest.raises(BatcherStopped):
            await batcher.submit(number)
        stopped.append(number)

    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batcher.serve)
            for number in (1, 2):
                callers.start_soon(submit, number)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    assert sorted(stopped) == [1, 2]
