"""Long computations that let other tasks of the trio thread run in between."""

import time
from typing import Final

import attrs
import trio

MAX_S: Final = 0.005


@attrs.define(eq=False)
class TimeSlice:
    """The time since a task last yielded.

    A checkpoint costs about as much as a small step of a computation, so a loop calls
    `yield_if_over` after each step, which yields only every 5 ms.
    """

    _began: float = attrs.Factory(time.perf_counter)

    async def yield_if_over(self) -> None:
        """Let other tasks run if this one has run for 5 ms."""
        if time.perf_counter() - self._began >= MAX_S:
            await trio.lowlevel.checkpoint()
            self._began = time.perf_counter()
