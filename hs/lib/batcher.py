"""Work that is cheaper in batches: while one batch runs, the next one gathers, with no timer."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import outcome
import trio

A = TypeVar("A")
R = TypeVar("R")


class BatcherFull(Exception):
    """Too many callers wait already."""


class BatcherStopped(Exception):
    """The batcher ended before the work was done; it may have been done or not."""


class _Ticket(Generic[A]):
    __slots__ = ("asked", "task")

    def __init__(self, asked: A) -> None:
        self.asked = asked
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()


class Batcher(Generic[A, R]):
    """Collects what callers ask for and answers it batch by batch.

    `run_batch` answers each question in its place; an answer that is an exception is raised in
    its caller, and an exception it raises itself in all callers of the batch.
    """

    def __init__(
        self,
        run_batch: Callable[[list[A]], Awaitable[Sequence[R | Exception]]],
        *,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[_Ticket[A]] = deque()
        self._arrived = trio.lowlevel.ParkingLot()

    async def ask(self, asked: A) -> R:
        """Wait for the answer; a cancelled caller's question is dropped unless it runs already.

        Raises: BatcherFull, BatcherStopped.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if len(self._waiting) >= self._max_waiting:
            raise BatcherFull
        ticket = _Ticket(asked)
        self._waiting.append(ticket)
        self._arrived.unpark()

        def abort(_: object) -> trio.lowlevel.Abort:
            ticket.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        answer: R = await trio.lowlevel.wait_task_rescheduled(abort)
        return answer

    async def serve(self) -> None:
        """Answer for ever; runs in the nursery of whoever owns the batcher."""
        batch: list[_Ticket[A]] = []
        try:
            while True:
                while not self._waiting:
                    await self._arrived.park()
                batch = self._take()
                if batch:
                    _answer(batch, await self._run([ticket.asked for ticket in batch]))
                    batch = []
        finally:
            left = [*batch, *self._waiting]
            self._waiting.clear()
            _answer(left, [BatcherStopped()] * len(left))

    def _take(self) -> list[_Ticket[A]]:
        batch: list[_Ticket[A]] = []
        while self._waiting and len(batch) < self._max_batch:
            ticket = self._waiting.popleft()
            if ticket.task is not None:
                batch.append(ticket)
        return batch

    async def _run(self, asked: list[A]) -> Sequence[R | Exception]:
        try:
            return await self._run_batch(asked)
        except Exception as error:  # noqa: BLE001  the callers raise it
            return [error] * len(asked)


def _answer(batch: Sequence[_Ticket[Any]], answers: Sequence[Any]) -> None:
    for ticket, answer in zip(batch, answers, strict=True):
        if ticket.task is not None:
            failed = isinstance(answer, Exception)
            result = outcome.Error(answer) if failed else outcome.Value(answer)
            trio.lowlevel.reschedule(ticket.task, result)
            ticket.task = None
