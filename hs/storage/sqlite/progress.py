"""How far a thread of the database has come, so that one whose disk hangs is noticed."""

import sqlite3
from time import monotonic
from typing import Final

# About 20 ms of computing: SQLite calls the handler that often while a statement runs.
TICK_STEPS: Final = 1_000_000


class ThreadProgress:
    """The progress of one thread; written by this thread, read by others."""

    def __init__(self, name: str, conn: sqlite3.Connection) -> None:
        self.name = name
        self._is_busy = False
        self.ticked_at = 0.0
        conn.set_progress_handler(self.tick, TICK_STEPS)

    def begin(self) -> None:
        """Note that the thread begins to work."""
        self.ticked_at = monotonic()
        self._is_busy = True

    def tick(self) -> None:
        """Note that the thread has come further."""
        self.ticked_at = monotonic()

    def end(self) -> None:
        """Note that the thread waits for work."""
        self._is_busy = False

    def is_stuck(self, limit_s: float) -> bool:
        """Return whether the thread works and has come no further for `limit_s`."""
        return self._is_busy and monotonic() - self.ticked_at > limit_s
