"""Threads for a disk that may hang, such as a network file system.

Rules:

- At most `threads` functions run at the same time. A caller waits for `answer_s`, in the queue and
  for the result; then it gets DiskHangs, and the thread is left behind with its slot. So a hung
  disk costs no more than these threads, and none of other services.
- Of the functions that work on one file, THREADS_OF_FILE run at the same time. So a single file
  that hangs leaves the other threads to other files.
- While all slots, or those of a file, are left behind, callers get DiskHangs at once.
- Cancelling a caller does not leave the thread behind: nothing that the thread works on is used by
  others before it has ended, unless DiskHangs was raised.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

from hs.lib.fairness.shares import Shares

T = TypeVar("T")

THREADS_OF_FILE: Final = 2
_MAX_WAITING: Final = 1_000_000  # bounded by the requests that wait


class DiskHangs(OSError):
    """The disk did not answer in time; what the function did or may still do is unknown."""


class DiskThreads:
    """A limited number of threads that are left behind when the disk hangs."""

    def __init__(self, threads: int, answer_s: float) -> None:
        self._threads = threads
        self._answer_s = answer_s
        self._limiter = trio.CapacityLimiter(threads)
        self._files: Shares[str] = Shares(running=THREADS_OF_FILE, waiting=_MAX_WAITING)
        self._left_behind: Counter[str | None] = Counter()

    @property
    def left_behind(self) -> int:
        """Number of threads that wait for the disk although their callers have given up."""
        return self._left_behind.total()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread. Raises: DiskHangs; what the function raises."""
        return await self.run_for(self._answer_s, None, function, *args)

    async def run_for(
        self, answer_s: float, file: str | None, function: Callable[..., T], *args: object
    ) -> T:
        """Run a function that may take longer than others; `file` is the file that it works on."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.left_behind >= self._threads:
            raise DiskHangs("the disk does not answer")
        if file is not None and self._left_behind[file] >= THREADS_OF_FILE:
            raise DiskHangs(f"the disk does not answer for {file}")
        call = _Call(self, file, function, args)
        with trio.move_on_after(answer_s, shield=True):
            if file is not None:
                await self._files.acquire(file)
                call.has_share = True
            return await trio.to_thread.run_sync(
                call.run, limiter=self._limiter, abandon_on_cancel=True
            )
        if not call.has_begun:
            self._return_share(call)
        elif not call.has_ended:
            call.is_left_behind = True
            self._left_behind[file] += 1
        raise DiskHangs(f"the disk did not answer for {answer_s:g} s")

    def _end(self, call: "_Call[T]") -> None:
        call.has_ended = True
        self._return_share(call)
        if call.is_left_behind:
            self._left_behind[call.file] -= 1
            self._left_behind += Counter()  # drops files without any

    def _return_share(self, call: "_Call[T]") -> None:
        if call.has_share and call.file is not None:
            call.has_share = False
            self._files.release(call.file)


class _Call(Generic[T]):
    """One function; `run` runs in the thread, and its end is known to the trio thread."""

    def __init__(
        self,
        threads: DiskThreads,
        file: str | None,
        function: Callable[..., T],
        args: tuple[object, ...],
    ) -> None:
        self.file = file
        self._threads = threads
        self._function = function
        self._args = args
        self._token = trio.lowlevel.current_trio_token()
        self.has_share = False
        self.has_begun = False
        self.has_ended = False
        self.is_left_behind = False

    def run(self) -> T:
        self.has_begun = True
        try:
            return self._function(*self._args)
        finally:
            try:
                self._token.run_sync_soon(self._threads._end, self)
            except trio.RunFinishedError:
                self.has_ended = True
