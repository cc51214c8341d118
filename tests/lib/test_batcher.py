"""The batcher answers each caller, batch by batch."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.lib.batcher import Batcher, BatcherFull, BatcherStopped


class Doubler:
    """Runs batches, each once it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = trio.Semaphore(0)

    async def run(self, asked: list[int]) -> list[int | Exception]:
        self.batches.append(asked)
        await self.gate.acquire()
        if 13 in asked:
            raise OSError("unlucky")
        return [KeyError(number) if number < 0 else number * 2 for number in asked]


async def test_while_one_batch_runs_the_next_gathers() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler.run, max_batch=10, max_waiting=100)
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        answers[number] = await batcher.ask(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        async with trio.open_nursery() as callers:
            callers.start_soon(ask, 0)
            await wait_all_tasks_blocked()
            for number in range(1, 13):
                callers.start_soon(ask, number)
            await wait_all_tasks_blocked()
            for _ in range(3):
                doubler.gate.release()
        nursery.cancel_scope.cancel()

    assert [len(batch) for batch in doubler.batches] == [1, 10, 2]
    assert answers == {number: number * 2 for number in range(13)}


async def test_errors_reach_the_callers_meant() -> None:
    doubler = Doubler()
    doubler.gate = trio.Semaphore(2)
    batcher = Batcher(doubler.run, max_batch=10, max_waiting=100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        with pytest.raises(KeyError):
            await batcher.ask(-1)
        with pytest.raises(OSError, match="unlucky"):
            await batcher.ask(13)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_question_is_not_asked() -> None:
    doubler = Doubler()
    doubler.gate = trio.Semaphore(9)
    batcher = Batcher(doubler.run, max_batch=10, max_waiting=100)

    with trio.move_on_after(0.01):
        await batcher.ask(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        assert await batcher.ask(6) == 12
        nursery.cancel_scope.cancel()

    assert doubler.batches == [[6]]


async def test_too_many_questions_are_refused() -> None:
    batcher = Batcher(Doubler().run, max_batch=1, max_waiting=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.ask, 1)
        await wait_all_tasks_blocked()
        with pytest.raises(BatcherFull):
            await batcher.ask(2)
        nursery.cancel_scope.cancel()


async def test_those_who_wait_hear_of_the_end() -> None:
    batcher = Batcher(Doubler().run, max_batch=1, max_waiting=9)
    told = []

    async def ask(number: int) -> None:
        with pytest.raises(BatcherStopped):
            await batcher.ask(number)
        told.append(number)

    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batcher.serve)
            for number in (1, 2):
                callers.start_soon(ask, number)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    assert sorted(told) == [1, 2]
