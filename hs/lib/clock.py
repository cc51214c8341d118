"""Wall-clock time, passed to whoever needs it, so that tests set it."""

import time
from typing import Protocol

import attrs
import trio


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Return the milliseconds since 1970, UTC."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@attrs.define
class FixedClock:
    """A clock that a test moves by hand."""

    ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.ms += ms


@attrs.frozen
class TrioClock:
    """A clock that follows trio's, which may be virtual; `start_ms` is the time at trio's zero."""

    start_ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.start_ms + int(trio.current_time() * 1000)
