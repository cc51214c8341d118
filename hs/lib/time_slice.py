"""Long computations that let other tasks of the trio thread run in between."""

import time
from collections.abc import Sequence
from io import BytesIO
from typing import Final

import attrs
import trio

MAX_S: Final = 0.005
PARTS_AT_ONCE: Final = 500


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

    async def join(self, parts: Sequence[bytes]) -> bytes:
        """Return the parts of a text, which may have many megabytes, as one."""
        if len(parts) <= PARTS_AT_ONCE:
            return b"".join(parts)
        # Its buffer grows in place and becomes the result: each byte is copied once.
        buffer = BytesIO()
        for begin in range(0, len(parts), PARTS_AT_ONCE):
            buffer.writelines(parts[begin : begin + PARTS_AT_ONCE])
            await self.yield_if_over()
        return buffer.getvalue()
