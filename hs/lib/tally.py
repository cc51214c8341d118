"""Counts and durations of operations, for metrics."""

import attrs


@attrs.define(eq=False)
class Tally:
    """A number of operations and their total duration.

    Only one thread updates a tally; others may read it.
    """

    count: int = 0
    failures: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count an operation that succeeded, or whose outcome does not matter."""
        self.count += 1
        self.seconds += seconds

    def add_failure(self, seconds: float) -> None:
        """Count an operation that failed."""
        self.failures += 1
        self.add(seconds)
