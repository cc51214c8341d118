"""Growing delays between attempts, randomized so that many clients do not retry at once."""

import random
from collections.abc import Callable

import attrs


@attrs.define
class Backoff:
    """Delays that grow by `factor` from `first_s` to `limit_s`.

    Each delay is shortened by a random part of at most `jitter`, a fraction. `chance` returns
    random numbers in [0, 1).
    """

    first_s: float
    limit_s: float
    factor: float = 2.0
    jitter: float = 0.5
    chance: Callable[[], float] = random.random
    failures: int = 0

    def next_s(self) -> float:
        """Count a failure and return the delay in seconds before the next attempt."""
        self.failures += 1
        return self.delay_s(self.failures)

    def delay_s(self, failures: int) -> float:
        """Return the delay after a number of consecutive failures."""
        # The exponent is bounded so that the power cannot overflow a float.
        delay_s = min(self.limit_s, self.first_s * self.factor ** min(failures - 1, 300))
        return delay_s * (1 - self.jitter * self.chance())

    def reset(self) -> None:
        """Begin again at `first_s`, after a success."""
        self.failures = 0
