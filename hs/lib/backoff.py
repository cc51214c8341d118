"""Growing pauses between attempts, spread by chance so that many clients do not retry at once."""

import random
from collections.abc import Callable

import attrs


@attrs.define
class Backoff:
    """Delays that grow by `factor` from `first_s` to `limit_s`.

    Each is shortened by up to the part `jitter` of itself; `chance` returns numbers in [0, 1).
    """

    first_s: float
    limit_s: float
    factor: float = 2.0
    jitter: float = 0.5
    chance: Callable[[], float] = random.random
    failures: int = 0

    def next_s(self) -> float:
        """Count one more failure; return how long to wait before the next attempt."""
        self.failures += 1
        return self.delay_s(self.failures)

    def delay_s(self, failures: int) -> float:
        """Return the pause after so many failures in a row."""
        # The exponent is bounded as floats are: long before, the limit is reached.
        whole = min(self.limit_s, self.first_s * self.factor ** min(failures - 1, 300))
        return whole * (1 - self.jitter * self.chance())

    def reset(self) -> None:
        """Begin again from `first_s`, after a success."""
        self.failures = 0
