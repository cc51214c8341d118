"""Batching of work that is cheaper in bulk: while one batch runs, the next one collects.

Rules:

- There is no timer: an item that arrives while no batch runs is processed at once, and an item that
  arrives during a batch waits for that batch only.
- Items are taken in order of arrival, at most `max_batch` at a time. At most `max_waiting` wait;
  further callers get BatcherFull.
- A caller that is cancelled while its item waits withdraws it. Once its batch runs, the item is
  processed, and only the result is dropped.
- When `serve` ends, all callers get BatcherStopped. Items of the running batch may have been
  processed or not; the caller must find out if that matters.
- A wake-up cannot be lost: `serve` checks the queue and parks without an await in between. While no
  `serve` runs, callers wait.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import outcome
import trio

A = TypeVar("A")
R = TypeVar("R")


class BatcherFull(Exception):
    """Too many items are waiting already."""


class BatcherStopped(Exception):
    """The batcher ended first; the item may have been processed or not."""


class _Entry(Generic[A]):
    """A submitted item; `task` is the caller, None once it needs no result."""

    __slots__ = ("item", "task")

    def __init__(self, item: A) -> None:
        self.item = item
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()


class Batcher(Generic[A, R]):
    """Collects the items that callers submit and processes them in batches.

    `run_batch` returns one result per item, in order. A result that is an exception is raised in
    the caller of that item; an exception that `run_batch` raises is raised in all callers of the
    batch.
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
        self._waiting: deque[_Entry[A]] = deque()
        self._arrived = trio.lowlevel.ParkingLot()

    async def submit(self, item: A) -> R:
        """Submit an item and return its result.

        If the caller is cancelled, the item is withdrawn, unless its batch is running already.

        Raises: BatcherFull, BatcherStopped.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if len(self._waiting) >= self._max_waiting:
            raise BatcherFull
        entry = _Entry(item)
        self._waiting.append(entry)
        self._arrived.unpark()

        def abort(_: object) -> trio.lowlevel.Abort:
            entry.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        result: R = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def serve(self) -> None:
        """Process batches until cancelled; run it once, in the nursery of the batcher's owner."""
        batch: list[_Entry[A]] = []
        try:
            while True:
                while not self._waiting:
                    await self._arrived.park()
                batch = self._take()
                if batch:
                    _resume_callers(batch, await self._run([entry.item for entry in batch]))
                    batch = []
        finally:
            unfinished = [*batch, *self._waiting]
            self._waiting.clear()
            _resume_callers(unfinished, [BatcherStopped()] * len(unfinished))

    def _take(self) -> list[_Entry[A]]:
        batch: list[_Entry[A]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if entry.task is not None:
                batch.append(entry)
        return batch

    async def _run(self, items: list[A]) -> Sequence[R | Exception]:
        try:
            return await self._run_batch(items)
        except Exception as error:  # noqa: BLE001  the callers raise it
            return [error] * len(items)


def _resume_callers(batch: Sequence[_Entry[Any]], results: Sequence[Any]) -> None:
    for entry, result in zip(batch, results, strict=True):
        if entry.task is not None:
            failed = isinstance(result, Exception)
            wrapped = outcome.Error(result) if failed else outcome.Value(result)
            trio.lowlevel.reschedule(entry.task, wrapped)
            entry.task = None
