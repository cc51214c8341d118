"""The one asyncio loop of a process, and the bridge over which trio tasks use it.

Call `bridge.run` once per unit of work, never once per await: a crossing costs 15 to 165 µs.
What runs on the other side touches no trio object; it speaks back through `tell_trio` alone.
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
_RaiseCancel = Callable[[], Any]  # named: inner functions evaluate their annotations
BridgeKind = Literal["uvloop", "trio-asyncio"]

CLOSE_GRACE_S = 5.0
CANCEL_AGAIN_S = 20.0  # longer than tidying up after a cancellation may take

log = logging.getLogger(__name__)


class Bridge(Protocol):
    """Runs asyncio coroutines for trio tasks."""

    async def run(self, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """Run a coroutine function on the loop; cancelling the caller cancels it.

        The caller leaves only when the coroutine has really ended.
        Raises: what the coroutine raises, BridgeClosed, CancelledOnLoop.
        """

    async def run_patiently(
        self, grace_s: float, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts
    ) -> T:
        """Run like `run`, but let the coroutine work on for `grace_s` after a cancellation.

        When it ends within the grace, the caller gets its result as if not cancelled.
        """

    def tell_trio(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call a function soon in the trio thread; from the loop's side, in order, batched."""

    def tell_loop(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call a function soon in the loop's thread; from trio's side, in order."""


class BridgeClosed(RuntimeError):
    """The bridge was closed before the coroutine ended, or before it began."""


class CancelledOnLoop(RuntimeError):
    """Somebody on the asyncio side cancelled the coroutine, without trio's asking."""


@asynccontextmanager
async def open_bridge(
    kind: BridgeKind = "uvloop", cancel_again_s: float = CANCEL_AGAIN_S
) -> AsyncIterator[Bridge]:
    """Open the asyncio loop: in its own thread with uvloop, or inside trio by trio-asyncio.

    Open it after any fork. What still runs at the end is cancelled and waited for. In asyncio a
    cancellation can get lost: a coroutine that goes on regardless is cancelled again.
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
    """One coroutine asked for by a trio task; fields change in the loop's thread only."""

    __slots__ = ("afn", "aio_task", "args", "given_up", "trio_task")

    def __init__(self, afn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        self.afn = afn
        self.args = args
        self.trio_task = trio.lowlevel.current_task()
        self.aio_task: asyncio.Task[Any] | None = None
        self.given_up = False


class _LoopBridge:
    """Both kinds of bridge: they differ in how a callback is posted to the loop."""

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
        # Set while a wake-up is under way, so that a burst of jobs costs one of them.
        self._loop_woken = False
        self._trio_woken = False

    async def run(self, afn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        return await self.run_patiently(0.0, afn, *args)

    async def run_patiently(
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
            self._post(self._give_up, job, grace_s)
            return trio.lowlevel.Abort.FAILED

        try:
            return await trio.lowlevel.wait_task_rescheduled(abort)
        except asyncio.CancelledError:
            if raise_cancel is not None:
                raise_cancel()
            if self._closing:
                raise BridgeClosed("the asyncio bridge closed meanwhile") from None
            raise CancelledOnLoop("cancelled on the asyncio side") from None

    def tell_trio(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        self._to_trio.append((fn, args))
        if not self._trio_woken:
            self._trio_woken = True
            try:
                self._token.run_sync_soon(self._take_calls)
            except trio.RunFinishedError:
                # Trio is gone, and with it everyone who could have listened.
                self._to_trio.clear()

    def tell_loop(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        self._post(fn, *args)

    async def drain(self) -> None:
        """Refuse new jobs, cancel everything on the loop, and wait until it has ended."""
        ended = _Job(self._end_everything, ())
        self._closing = True
        await self._cross(ended, CLOSE_GRACE_S)

    def serve_thread(self) -> None:
        """Run the loop, in its own thread, until `stop_thread`."""
        asyncio.set_event_loop(self._loop)
        while not self._stopped:
            try:
                self._loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # asyncio lets these out of the loop besides storing them in their task,
                # whose caller on the trio side gets them from there.
                log.debug("the asyncio loop was left by an exit request; resuming")

    def stop_thread(self) -> None:
        """Make `serve_thread` return."""
        self._stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end_everything(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks(self._loop) if task is not mine]
        for task in others:
            task.cancel()
        if others:
            _, stuck = await asyncio.wait(others, timeout=CLOSE_GRACE_S)
            for task in stuck:
                log.error("an asyncio task does not end when cancelled: %r", task)
        await self._loop.shutdown_asyncgens()

    # Below: called in the loop's thread, except for `_take_calls` in trio's.

    def _take_jobs(self) -> None:
        self._loop_woken = False
        while self._to_loop:
            job = self._to_loop.popleft()
            if job.given_up:
                self._give(job, outcome.Error(asyncio.CancelledError()))
                continue
            job.aio_task = self._loop.create_task(job.afn(*job.args))
            job.aio_task.add_done_callback(functools.partial(self._ended, job))

    def _give_up(self, job: _Job, grace_s: float) -> None:
        if job.aio_task is None:
            job.given_up = True
        elif grace_s > 0:
            self._loop.call_later(grace_s, self._cancel, job.aio_task)
        else:
            self._cancel(job.aio_task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancelling():
            log.warning("an asyncio task goes on although cancelled: %r", task)
        if task.cancel():
            again = self._loop.call_later(self._cancel_again_s, self._cancel, task)
            task.add_done_callback(lambda _: again.cancel())

    def _ended(self, job: _Job, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._give(job, outcome.Error(asyncio.CancelledError()))
        elif error := task.exception():
            self._give(job, outcome.Error(error))
        else:
            self._give(job, outcome.Value(task.result()))

    def _give(self, job: _Job, result: outcome.Outcome[Any]) -> None:
        self.tell_trio(trio.lowlevel.reschedule, job.trio_task, result)

    def _take_calls(self) -> None:
        self._trio_woken = False
        while self._to_trio:
            fn, args = self._to_trio.popleft()
            try:
                fn(*args)
            except Exception:
                # Raising here would end the whole trio run.
                log.exception("a call from the asyncio side failed")
