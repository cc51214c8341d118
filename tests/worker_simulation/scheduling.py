"""Which process a task belongs to, and processes that hang: their tasks are not scheduled."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from unittest import mock

import attrs
import trio._core._run as trio_run

OWNER: ContextVar[Any] = ContextVar("OWNER")
"""The life of the process to which a task belongs; tasks inherit it from those that start them."""


@attrs.define(eq=False)
class Freezer:
    """The lives that hang, each with its tasks that would run."""

    _held: dict[object, list[Any]] = attrs.Factory(dict)

    def freeze(self, life: object) -> None:
        """Let the tasks of a life hang, as SIGSTOP does: timeouts pass, and nothing runs."""
        self._held.setdefault(life, [])

    def resume(self, life: object) -> None:
        """Let the tasks of a life go on."""
        trio_run.GLOBAL_RUN_CONTEXT.runner.runq.extend(self._held.pop(life, ()))

    def resume_all(self) -> None:
        """Let the tasks of all lives go on."""
        for life in list(self._held):
            self.resume(life)

    def is_frozen(self, life: object) -> bool:
        """Return whether a life hangs."""
        return life in self._held

    def hold(self, task: Any, queue: Any) -> None:
        """Take a task that was put last into the queue of trio out of it, if its life hangs."""
        if self._held:
            tasks = self._held.get(task.context.get(OWNER))
            if tasks is not None:
                tasks.append(queue.pop())


@contextmanager
def freezing() -> Iterator[Freezer]:
    """Make lives freezable until the block ends."""
    freezer = Freezer()
    reschedule = trio_run.Runner.reschedule

    def reschedule_or_hold(runner: Any, task: Any, *result: Any) -> None:
        reschedule(runner, task, *result)
        freezer.hold(task, runner.runq)

    with mock.patch.object(trio_run.Runner, "reschedule", reschedule_or_hold):
        yield freezer
