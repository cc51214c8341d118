"""Threads for a disk that may hang, such as a network file system.

Rules:

- At most `threads` functions run at the same time. A caller waits for `answer_s`, in the queue and
  for the result; then it gets DiskHangs, and the thread is left behind with its slot. So a hung
  disk costs no more than these threads, and none of other services.
- While all slots are left behind, callers get DiskHangs at once.
- Cancelling a caller does not leave the thread behind: nothing that the thread works on is used by
  others before it has ended, unless DiskHangs was raised.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class DiskHangs(OSError):
    """The disk did not answer in time; what the function did or may still do is unknown."""


class DiskThreads:
    """A limited number of threads that are left behind when the disk hangs."""

    def __init__(self, threads: int, answer_s: float) -> None:
        self._threads = threads
        self._answer_s = answer_s
        self._limiter = trio.CapacityLimiter(threads)
        self._left_behind = 0

    @property
    def left_behind(self) -> int:
        """Number of threads that wait for the disk although their callers have given up."""
        return self._left_behind

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread. Raises: DiskHangs; what the function raises."""
        return await self.run_for(self._answer_s, function, *args)

    async def run_for(self, answer_s: float, function: Callable[..., T], *args: object) -> T:
        """Run a function that may take longer than others."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._left_behind >= self._threads:
            raise DiskHangs("the disk does not answer")
        call = _Call(self, function, args)
        with trio.move_on_after(answer_s, shield=True):
            return await trio.to_thread.run_sync(
                call.run, limiter=self._limiter, abandon_on_cancel=True
            )
        if call.has_begun and not call.has_ended:
            call.is_left_behind = True
            self._left_behind += 1
        raise DiskHangs(f"the disk did not answer for {answer_s:g} s")

    def _return_one(self) -> None:
        self._left_behind -= 1


class _Call(Generic[T]):
    """One function; `run` runs in the thread, and its end is known to the trio thread."""

    def __init__(
        self, threads: DiskThreads, function: Callable[..., T], args: tuple[object, ...]
    ) -> None:
        self._threads = threads
        self._function = function
        self._args = args
        self._token = trio.lowlevel.current_trio_token()
        self.has_begun = False
        self.has_ended = False
        self.is_left_behind = False

    def run(self) -> T:
        self.has_begun = True
        try:
            return self._function(*self._args)
        finally:
            try:
                self._token.run_sync_soon(self._end)
            except trio.RunFinishedError:
                self.has_ended = True

    def _end(self) -> None:
        self.has_ended = True
        if self.is_left_behind:
            self._threads._return_one()
