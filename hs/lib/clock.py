"""Wall-clock time, passed in as a dependency so that tests can set it."""

import time
from typing import Protocol

import attrs
import trio


class Clock(Protocol):
    """A source of the current time."""

    def now_ms(self) -> int:
        """Return the milliseconds since 1970-01-01 UTC."""


class SystemClock:
    """The clock of the operating system."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@attrs.define
class FixedClock:
    """A clock that stands still until a test advances it."""

    ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def advance(self, ms: int) -> None:
        """Move the clock forward."""
        self.ms += ms


@attrs.frozen
class TrioClock:
    """A clock that follows trio's, which may be virtual; `start_ms` is the time at trio's zero."""

    start_ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.start_ms + int(trio.current_time() * 1000)
