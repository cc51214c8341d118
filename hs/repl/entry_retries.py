"""How often a duty repeats the work of the entry at the head of its queue."""

from typing import Final, Generic, TypeVar

from hs.storage.database import DatabaseUnavailable

T = TypeVar("T")

MAX_FAILURES: Final = 10
"""Failures of one entry; with the pauses between two runs of a duty, they take a minute."""


class EntryRetries(Generic[T]):
    """Counts the failures of the entry at the head of a `FeedQueue`.

    An entry whose work raises goes back to the head. If it failed each time, all others would wait
    for ever, so it is to be skipped after MAX_FAILURES. While the database is away, no entry could
    be worked on, so those failures are not counted.
    """

    def __init__(self) -> None:
        self._entry: T | None = None
        self._failures = 0

    def may_retry(self, entry: T, error: Exception) -> bool:
        """Count a failure; return whether to raise it again, or else to skip the entry."""
        if isinstance(error, DatabaseUnavailable):
            return True
        if entry != self._entry:
            self._entry, self._failures = entry, 0
        self._failures += 1
        if self._failures < MAX_FAILURES:
            return True
        self.succeeded()
        return False

    def succeeded(self) -> None:
        """Forget the failures: the entry is done, or skipped, and may come again."""
        self._entry, self._failures = None, 0
