"""The one asyncio loop of a process, and the bridge over which trio tasks run coroutines on it.

Call `Bridge.run` once per unit of work, never once per await: a crossing costs 15 to 165 µs. Code
on the asyncio side must not touch trio objects; it calls into trio through the bridge only.

Rules:

- A trio task leaves `run` only when its coroutine has ended, also if the task is cancelled: the
  cancellation is passed on to the coroutine, and the task waits for it to take effect. So nothing
  that the coroutine uses, such as a database connection, outlives the caller.
- The threads share only the two deques and the flags. Once posted, a `_Job` belongs to the loop's
  thread. Results return to trio in order, as calls that reschedule the waiting tasks.
- An entry is appended to a deque before the flag is read, and the flag is cleared before the deque
  is emptied. So an entry is either seen by the wake-up under way or causes a new one; a burst of
  entries causes only one.
- If the coroutine returns although it was asked to stop, the caller gets its result, and trio
  delivers the cancellation at the caller's next checkpoint.
- asyncio may lose a cancellation, for example when a library catches it. A coroutine that keeps
  running is therefore cancelled again every `cancel_again_s` until it ends.
- A `CancelledError` that trio did not ask for becomes `CancelledOnLoop`, or `BridgeClosed` during
  shutdown: as a BaseException that no trio scope catches it would end the whole process.
- Closing rejects new jobs, cancels all asyncio tasks and waits for them for CLOSE_GRACE_S.
"""

import asyncio
import contextvars
import functools
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple

import outcome
import trio
import trio_asyncio  # type: ignore[import-untyped]  # ships no types
import uvloop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_RaiseCancel = Callable[[], Any]  # an alias, as annotations of inner functions are evaluated
BridgeKind = Literal["uvloop", "trio-asyncio"]

CLOSE_GRACE_S = 5.0
CANCEL_AGAIN_S = 20.0  # longer than the clean-up after a cancellation may take

log = logging.getLogger(__name__)


class Bridge(Protocol):
    """Runs asyncio coroutines for trio tasks."""

    async def run(self, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """Run a coroutine function on the loop and return its result.

        Cancelling the caller cancels the coroutine; the caller returns only when it has ended.
        Raises: the coroutine's exception, BridgeClosed, CancelledOnLoop.
        """

    async def run_with_grace(
        self, grace_s: float, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts
    ) -> T:
        """Run like `run`, but cancel the coroutine only `grace_s` after the caller was cancelled.

        If it ends within that time, the caller gets its result as if it had not been cancelled.
        """

    def call_in_trio(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Schedule a call in the trio thread, from the loop's side; calls keep their order."""

    def call_in_loop(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Schedule a call in the loop's thread, from trio's side; calls keep their order."""


class BridgeClosed(RuntimeError):
    """The bridge was closed before the coroutine ended or began."""


class CancelledOnLoop(RuntimeError):
    """The coroutine was cancelled on the asyncio side, although the trio caller was not."""


@asynccontextmanager
async def open_bridge(
    kind: BridgeKind = "uvloop", cancel_again_s: float = CANCEL_AGAIN_S
) -> AsyncIterator[Bridge]:
    """Open the asyncio loop: in a thread with uvloop, or inside trio with trio-asyncio.

    Must be called after any fork. Coroutines that still run at the end are cancelled and waited
    for. A coroutine that keeps running is cancelled again every `cancel_again_s`.
    """
    opened = _uvloop_thread(cancel_again_s) if kind == "uvloop" else _inside_trio(cancel_again_s)
    async with opened as bridge:
        yield bridge


@asynccontextmanager
async def _uvloop_thread(cancel_again_s: float) -> AsyncIterator[Bridge]:
    loop = uvloop.new_event_loop()
    bridge = _LoopBridge(loop, loop.call_soon_threadsafe, cancel_again_s)
    thread = threading.Thread(target=bridge.serve_thread, name="asyncio bridge", daemon=True)
    thread.start()
    try:
        yield bridge
    finally:
        with trio.CancelScope(shield=True):
            await bridge.drain()
            bridge.stop_thread()
            await trio.to_thread.run_sync(thread.join)
        loop.close()


@asynccontextmanager
async def _inside_trio(cancel_again_s: float) -> AsyncIterator[Bridge]:
    async with trio_asyncio.open_loop() as loop:
        bridge = _LoopBridge(loop, loop.call_soon, cancel_again_s)
        try:
            yield bridge
        finally:
            with trio.CancelScope(shield=True):
                await bridge.drain()


class _Job:
    """A coroutine requested by a trio task; after posting, only the loop's thread changes it."""

    __slots__ = ("afn", "aio_task", "args", "is_cancelled", "trio_task")

    def __init__(self, afn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        self.afn = afn
        self.args = args
        self.trio_task = trio.lowlevel.current_task()
        self.aio_task: asyncio.Task[Any] | None = None
        self.is_cancelled = False


class _LoopBridge:
    """The implementation for both kinds of loop, which differ in how a callback is posted."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, post: Callable[..., object], cancel_again_s: float
    ) -> None:
        self._loop = loop
        self._cancel_again_s = cancel_again_s
        self._token = trio.lowlevel.current_trio_token()
        self._post = functools.partial(post, context=contextvars.copy_context())
        self._closing = False
        self._stopped = False
        self._to_loop: deque[_Job] = deque()
        self._to_trio: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        # Set while a wake-up is under way, so that a burst of jobs causes only one.
        self._loop_woken = False
        self._trio_woken = False

    async def run(self, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        return await self.run_with_grace(0.0, afn, *args)

    async def run_with_grace(
        self, grace_s: float, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts
    ) -> T:
        if self._closing:
            raise BridgeClosed("the asyncio bridge is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        result: T = await self._cross(_Job(afn, args), grace_s)
        return result

    async def _cross(self, job: _Job, grace_s: float) -> Any:
        self._to_loop.append(job)
        if not self._loop_woken:
            self._loop_woken = True
            self._post(self._take_jobs)
        raise_cancel: _RaiseCancel | None = None

        def abort(cancel: _RaiseCancel) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = cancel
            # The task stays blocked (FAILED) until the coroutine has ended: `_ended` resumes it.
            self._post(self._cancel_job, job, grace_s)
            return trio.lowlevel.Abort.FAILED

        try:
            return await trio.lowlevel.wait_task_rescheduled(abort)
        except asyncio.CancelledError:
            if raise_cancel is not None:
                raise_cancel()
            if self._closing:
                raise BridgeClosed("the asyncio bridge was closed during the call") from None
            raise CancelledOnLoop("the coroutine was cancelled on the asyncio side") from None

    def call_in_trio(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        self._to_trio.append((fn, args))
        if not self._trio_woken:
            self._trio_woken = True
            try:
                self._token.run_sync_soon(self._take_calls)
            except trio.RunFinishedError:
                # The trio run has ended, and with it every task that could use the result.
                self._to_trio.clear()

    def call_in_loop(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        self._post(fn, *args)

    async def drain(self) -> None:
        """Reject new jobs, cancel everything on the loop, and wait until it has ended."""
        end_job = _Job(self._end_everything, ())
        self._closing = True
        await self._cross(end_job, CLOSE_GRACE_S)

    def serve_thread(self) -> None:
        """Run the loop in the current thread until `stop_thread`."""
        asyncio.set_event_loop(self._loop)
        while not self._stopped:
            try:
                self._loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # asyncio stores these in their task, from where the trio caller gets them,
                # but also lets them stop the loop.
                log.debug("exit request stopped the asyncio loop, resuming it")

    def stop_thread(self) -> None:
        """Make `serve_thread` return."""
        self._stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end_everything(self) -> None:
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks(self._loop) if task is not current]
        for task in others:
            task.cancel()
        if others:
            _, stuck = await asyncio.wait(others, timeout=CLOSE_GRACE_S)
            for task in stuck:
                log.error("asyncio task did not end when cancelled, leaving it behind: %r", task)
        await self._loop.shutdown_asyncgens()

    # The methods below run in the loop's thread, except `_take_calls`, which runs in trio's.

    def _take_jobs(self) -> None:
        self._loop_woken = False
        while self._to_loop:
            job = self._to_loop.popleft()
            if job.is_cancelled:
                self._resume(job, outcome.Error(asyncio.CancelledError()))
                continue
            job.aio_task = self._loop.create_task(job.afn(*job.args))
            job.aio_task.add_done_callback(functools.partial(self._ended, job))

    def _cancel_job(self, job: _Job, grace_s: float) -> None:
        if job.aio_task is None:
            job.is_cancelled = True
        elif grace_s > 0:
            self._loop.call_later(grace_s, self._cancel, job.aio_task)
        else:
            self._cancel(job.aio_task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancelling():
            log.warning("asyncio task still runs after cancellation, cancelling again: %r", task)
        if task.cancel():
            again = self._loop.call_later(self._cancel_again_s, self._cancel, task)
            task.add_done_callback(lambda _: again.cancel())

    def _ended(self, job: _Job, task: asyncio.Task[Any]) -> None:
        # The traceback of the task's exception will refer to the job: with a reference back, the
        # exception and all that it keeps, such as a large response, would wait for the collector.
        job.aio_task = None
        if task.cancelled():
            self._resume(job, outcome.Error(asyncio.CancelledError()))
        elif error := task.exception():
            self._resume(job, outcome.Error(error))
        else:
            self._resume(job, outcome.Value(task.result()))

    def _resume(self, job: _Job, result: outcome.Outcome[Any]) -> None:
        self.call_in_trio(trio.lowlevel.reschedule, job.trio_task, result)

    def _take_calls(self) -> None:
        self._trio_woken = False
        while self._to_trio:
            fn, args = self._to_trio.popleft()
            try:
                fn(*args)
            except Exception:
                # Raising here would end the whole trio run.
                log.exception("callback from the asyncio side failed")
