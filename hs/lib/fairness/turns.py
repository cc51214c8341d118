"""Fair passes of the scheduler: of each key, only a few tasks begin their work in one pass.

A pass runs every task that is ready once. Tasks of which many are ready at a time, and that do
not wait while they work, would otherwise delay everything else by the sum of their work.

Rules:

- Of one key, about `of_pass` tasks take a turn in one pass, never more than twice as many. The
  others wait, and continue in order of arrival in the passes that follow.
- A turn ends by itself, so nobody has to return it, and waiting for a turn can never deadlock.
- The number of passes is not known. So the turns that a key has taken count until a task has waited
  for one pass; then the key has new turns. A task alone therefore sometimes waits for one pass.
- The first task that has to wait leads: it waits for one pass, and then lets the next tasks of the
  key continue, the last of which leads in turn. A leader cannot be cancelled.
"""

from collections.abc import Hashable
from itertools import islice
from typing import Generic, TypeVar

import trio
from outcome import Value

K = TypeVar("K", bound=Hashable)
MAX_KEYS = 4096


class Turns(Generic[K]):
    """Lets `of_pass` tasks of each key begin their work in one pass of the scheduler."""

    def __init__(self, of_pass: int) -> None:
        self._of_pass = of_pass
        self._taken: dict[K, int] = {}
        self._queues: dict[K, dict[trio.lowlevel.Task, None]] = {}

    def take_nowait(self, key: K) -> bool:
        """Take a turn, unless the key has taken all turns of this pass."""
        taken = self._taken.get(key, 0)
        if taken == self._of_pass:
            return False
        if not taken and len(self._taken) >= MAX_KEYS:
            self._forget()
        self._taken[key] = taken + 1
        return True

    async def take(self, key: K) -> None:
        """Take a turn, of a later pass if the key has taken all turns of this one."""
        if not self.take_nowait(key):
            await self.wait(key)

    def _forget(self) -> None:
        """Forget the turns that were taken, except of keys for which tasks are waiting."""
        self._taken = dict.fromkeys(self._queues, self._of_pass)

    async def wait(self, key: K) -> None:
        """Take a turn of a later pass."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = {}
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif not await _wait_in(queue):
            return
        self._begin_pass(key)

    def _begin_pass(self, key: K) -> None:
        """Let the next tasks continue in the next pass; the calling task has a turn in this one."""
        queue = self._queues[key]
        tasks = list(islice(queue, self._of_pass))
        for number, task in enumerate(tasks, 1):
            del queue[task]
            trio.lowlevel.reschedule(task, Value(number == self._of_pass))
        if len(tasks) == self._of_pass:
            self._taken[key] = self._of_pass
        else:
            del self._queues[key]
            self._taken[key] = 1 + len(tasks)


async def _wait_in(queue: dict[trio.lowlevel.Task, None]) -> bool:
    """Wait until the task is let on; return whether it leads."""
    task = trio.lowlevel.current_task()
    queue[task] = None

    def abort(_: object) -> trio.lowlevel.Abort:
        del queue[task]
        return trio.lowlevel.Abort.SUCCEEDED

    leads: bool = await trio.lowlevel.wait_task_rescheduled(abort)
    return leads
