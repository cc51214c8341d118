"""Supervised background work: failures are logged and counted, and the work is restarted."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs
import trio

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
# A database or process that was unreachable may be back at any moment.
LONGEST_TRANSIENT_PAUSE_S = 10.0
# A duty that ran this long before it failed starts again at the shortest pause.
HEALTHY_AFTER_S = 120.0


@attrs.frozen
class Duty:
    """Background work of a process: supervised, and restarted with a backoff when it fails.

    `run` may be cancelled at any await. Without `period_s` it returns only when its work is over
    for good. With `period_s` it does the work once and is called again every so many seconds; the
    first time at the start of the duty, or after one period if `at_start` is False.

    `plan_duty` is None for work of every process. Otherwise it names the duty of the plan
    (`hs plan`) to which the work belongs: it runs in one process at a time, under a lease, among
    those whose plan has that duty.

    `waiting` returns how many items are queued in memory, for metrics.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    waiting: Callable[[], int] | None = None
    plan_duty: str | None = None
    period_s: float | None = None
    at_start: bool = True

    async def perform(self) -> None:
        """Do the work: until it is over, or once a period for ever."""
        if self.period_s is None:
            await self.run()
            return
        if self.at_start:
            await self.run()
        await every(self.period_s, self.run)


@attrs.define(eq=False)
class BackgroundNursery:
    """A nursery for tasks that outlive what starts them; it is None unless `run` is running."""

    nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the nursery open until cancelled."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self.nursery = None


@attrs.define(eq=False)
class Supervision:
    """Whether the duties of a process are running and how often they were restarted."""

    running: dict[str, bool] = attrs.Factory(dict)
    restarts: Counter[str] = attrs.Factory(Counter)


async def keep_running(
    duty: Duty,
    transient: tuple[type[Exception], ...] = (),
    supervision: Supervision | None = None,
) -> None:
    """Run a duty; when it raises, log and count the failure, wait with a backoff and rerun it.

    Failures of the classes `transient` are no bugs: they are logged in one line, and the pauses
    stay short.
    """
    watch = supervision or Supervision()
    pause_s = FIRST_PAUSE_S
    while True:
        began = trio.current_time()
        watch.running[duty.name] = True
        try:
            await duty.perform()
        except Exception as error:
            # Cancelled is not an Exception, nor is a group that contains it: both propagate.
            if trio.current_time() - began >= HEALTHY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            cause = _first_if_all(transient, error)
            if cause is None:
                log.exception("duty %s failed, restarting it in %.1f s", duty.name, pause_s)
            else:
                pause_s = min(pause_s, LONGEST_TRANSIENT_PAUSE_S)
                log.warning("duty %s: %s, restarting it in %.1f s", duty.name, cause, pause_s)
        else:
            return
        finally:
            watch.running[duty.name] = False
        watch.restarts[duty.name] += 1
        await trio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _first_if_all(transient: tuple[type[Exception], ...], error: Exception) -> BaseException | None:
    """Return the first failure if all of them are of these classes, else None."""
    if isinstance(error, ExceptionGroup):
        if error.split(transient)[1] is not None:
            return None
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        return first
    return error if isinstance(error, transient) else None


async def every(period_s: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` once a period for ever, the first time after one period."""
    while True:
        await trio.sleep(period_s)
        await work()


async def measure_lag(period_s: float, report: Callable[[float], None]) -> None:
    """Report, once a period for ever, by how many seconds this task ran late."""
    while True:
        due = trio.current_time() + period_s
        await trio.sleep_until(due)
        report(trio.current_time() - due)
