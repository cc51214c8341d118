"""Stalls: moments in which tasks kept the event loop busy, so that no other task could run.

Rules:

- The length of a stall is the time between two waits of the loop for I/O. Noticing it costs two
  calls per round of the loop.
- What ran is sampled by a timer that counts the processor time of this process: a signal every
  `STALL_S` of it. So an idle process is never woken, and one that waits for a slow disk in the
  loop's thread is not sampled.
- The handler runs in the loop's thread, between two instructions, and notes the innermost calls.
- One line is logged per `REPORT_EVERY_S`, with the number of stalls since the last one.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import trio

STALL_S: Final = 0.1
REPORT_EVERY_S: Final = 60.0
MAX_CALLS: Final = 4
"""Calls that a report names, the innermost first."""

log = logging.getLogger(__name__)


class StallWatch(trio.abc.Instrument):
    """Measures stalls of the event loop, and reports those that last `STALL_S` or longer."""

    def __init__(
        self,
        observe: Callable[[float], None],
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._observe = observe
        self._now_s = now_s
        # None while the loop waits for I/O.
        self._began: float | None = None
        self._calls = ""
        self._unreported = 0
        self._report_after = -REPORT_EVERY_S

    def after_io_wait(self, timeout: float) -> None:
        """Note that tasks begin to run."""
        self._began = self._now_s()

    def before_io_wait(self, timeout: float) -> None:
        """Observe for how long tasks ran, if it was too long."""
        if self._began is None:
            return
        now = self._now_s()
        took, self._began = now - self._began, None
        if took >= STALL_S:
            self._observe(took)
            self._report(took, now)

    def sample(self, signal_number: int, frame: FrameType | None) -> None:
        """Note what is running, if the present round of the loop is a stall."""
        if self._began is not None and self._now_s() - self._began >= STALL_S:
            self._calls = calls_of(frame)

    async def run(self) -> None:
        """Watch the event loop of the calling task until it is cancelled."""
        trio.lowlevel.add_instrument(self)
        before = None
        try:
            if threading.current_thread() is threading.main_thread():
                before = signal.signal(signal.SIGVTALRM, self.sample)
                signal.siginterrupt(signal.SIGVTALRM, False)
                signal.setitimer(signal.ITIMER_VIRTUAL, STALL_S, STALL_S)
            await trio.sleep_forever()
        finally:
            if before is not None:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                signal.signal(signal.SIGVTALRM, before)
            trio.lowlevel.remove_instrument(self)

    def _report(self, took: float, now: float) -> None:
        self._unreported += 1
        calls, self._calls = self._calls or "unknown calls", ""
        if now < self._report_after:
            return
        log.warning(
            "the event loop was blocked for %.0f ms, in %s; %d stalls since the last report",
            took * 1000,
            calls,
            self._unreported,
        )
        self._unreported, self._report_after = 0, now + REPORT_EVERY_S


def calls_of(frame: FrameType | None) -> str:
    """Return the innermost calls of a frame, as text."""
    calls: list[str] = []
    while frame is not None and len(calls) < MAX_CALLS:
        module = frame.f_globals.get("__name__", "?")
        calls.append(f"{module}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(calls)
