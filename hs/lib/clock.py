"""Time, passed in as a dependency so that tests can set it.

`now_ms` is the date. An administrator or NTP may set it back or ahead while the process runs, so it
is for what is stored or shown. Durations within one life of a process are measured by `steady_ms`.
"""

import time
from typing import Protocol

import attrs
import trio


class Clock(Protocol):
    """A source of the current time."""

    def now_ms(self) -> int:
        """Return the milliseconds since 1970-01-01 UTC."""

    def steady_ms(self) -> int:
        """Return the milliseconds since some moment, by a clock that nobody sets."""


class SystemClock:
    """The clock of the operating system."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def steady_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


@attrs.define
class FixedClock:
    """A clock that stands still until a test advances it."""

    ms: int = 1_700_000_000_000
    _passed_ms: int = 0

    def now_ms(self) -> int:
        return self.ms

    def steady_ms(self) -> int:
        return self._passed_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.ms += ms
        self._passed_ms += ms

    def jump(self, ms: int) -> None:
        """Set the date ahead, or back, without any time passing."""
        self.ms += ms


@attrs.frozen
class TrioClock:
    """A clock that follows trio's, which may be virtual; `start_ms` is the time at trio's zero."""

    start_ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.start_ms + int(trio.current_time() * 1000)

    def steady_ms(self) -> int:
        return int(trio.current_time() * 1000)
