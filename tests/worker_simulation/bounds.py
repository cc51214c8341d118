"""The bounds of a run: one that does not end is cancelled, and reported with what was running."""

import math
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import attrs
import trio

from tests.worker_simulation.scheduling import OWNER, Freezer

LONGEST_S: Final = 1500.0
MOST_STEPS: Final = 20_000
"""Steps at one moment of virtual time; usually they are hundreds."""
FRAMES: Final = 4
SHOWN: Final = 12


@attrs.define(eq=False)
class Bounds(trio.abc.Instrument):
    """Cancels a run that takes too long, or one in which time stands still.

    It does so if tasks wake each other all the time, or if all of them wait without a deadline. A
    run that does not end when it is cancelled ends the interpreter.
    """

    _freezer: Freezer
    _problems: list[str]
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _now: float = -math.inf
    _steps: int = 0
    _busy: Counter[str] = attrs.Factory(Counter)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a simulation within the bounds; `self` must be an instrument of the run."""
        with self._scope:
            await work()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step of a task."""
        self._count()
        if self._steps > MOST_STEPS // 2:
            self._busy[_place(task)] += 1

    def after_io_wait(self, timeout: float) -> None:
        """Count a step, as time moves with the next wait, unless nothing has a deadline."""
        self._count()

    def _count(self) -> None:
        now = trio.current_time()
        if now != self._now:
            if self._now < LONGEST_S <= now:
                self._end(f"the run did not end within {LONGEST_S:.0f} s", _waiting())
            elif now > 2 * LONGEST_S:
                self._give_up()
            self._now, self._steps = now, 0
        self._steps += 1
        if self._steps == MOST_STEPS:
            busy = [f"{count} times {place}" for place, count in self._busy.most_common(SHOWN)]
            self._end(f"time stands still at {now:.3f} s", busy or _waiting())
        elif self._steps == 2 * MOST_STEPS:
            self._give_up()

    def _end(self, problem: str, places: list[str]) -> None:
        self._problems.append("\n    ".join((problem, *places)))
        self._freezer.resume_all()
        self._scope.cancel()

    def _give_up(self) -> None:
        sys.stdout.write("\n".join((*self._problems, "and the run cannot be cancelled\n")))
        sys.stdout.flush()
        os._exit(1)


def _waiting() -> list[str]:
    """Return where the tasks of the simulation wait, and not those of the processes."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return [_place(task) for task in _tasks(root) if OWNER not in task.context]


def _tasks(parent: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in parent.child_nurseries:
        for task in nursery.child_tasks:
            yield task
            yield from _tasks(task)


def _place(task: trio.lowlevel.Task) -> str:
    """Return the name of the process and the innermost calls of a task."""
    life: Any = task.context.get(OWNER)
    calls = [
        f"{frame.f_code.co_qualname}:{line}"
        for frame, line in task.iter_await_frames()
        if "site-packages" not in frame.f_code.co_filename
    ]
    return f"{life.name if life else 'simulation'}: {' > '.join(calls[-FRAMES:]) or task.name}"
