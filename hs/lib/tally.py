"""Counting how often something was done and how long it took, for metrics to look at."""

import attrs


@attrs.define(eq=False)
class Tally:
    """A count and a sum of seconds; belongs to one thread, others may look."""

    count: int = 0
    failures: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one that went well or whose outcome does not matter."""
        self.count += 1
        self.seconds += seconds

    def add_failure(self, seconds: float) -> None:
        """Count one that went wrong."""
        self.failures += 1
        self.add(seconds)
