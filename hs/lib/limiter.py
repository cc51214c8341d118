"""Rate limits by token bucket, one bucket for each key; time is passed in."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs
from attrs.validators import gt

K = TypeVar("K", bound=Hashable)


@attrs.frozen
class Rate:
    """`burst` actions at once, and `per_second` more as time passes."""

    per_second: float = attrs.field(validator=gt(0))
    burst: float = attrs.field(validator=gt(0))


class RateLimiter(Generic[K]):
    """Buckets of up to `max_keys` keys; a forgotten bucket is a full one.

    A bucket is kept as the time when it will be full again, so that one number does for it.
    `granted` hears of all that is taken: the key, its cost and the burst, both in seconds.
    """

    def __init__(
        self,
        rate: Rate,
        max_keys: int = 100_000,
        granted: Callable[[K, float, float], None] | None = None,
    ) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._granted = granted
        self._full_at: OrderedDict[K, float] = OrderedDict()

    def take(self, key: K, now_s: float, *, cost: float = 1, rate: Rate | None = None) -> float:
        """Take tokens and return 0, or leave them and return the seconds until there are enough.

        `rate` is that of keys with an exception; a cost over the burst is never granted: inf.
        """
        rate = rate or self._rate
        wait_s, full_at = self._after(key, now_s, cost, rate)
        if wait_s > 0:
            return wait_s
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        self._forget_full(now_s)
        if self._granted is not None:
            self._granted(key, cost / rate.per_second, rate.burst / rate.per_second)
        return 0.0

    def charge(self, key: K, now_s: float, cost_s: float) -> None:
        """Take what was granted elsewhere, although there may not be so much; in seconds."""
        self._full_at[key] = max(now_s, self._full_at.get(key, now_s)) + cost_s
        self._full_at.move_to_end(key)
        self._forget_full(now_s)

    def peek(self, key: K, now_s: float, *, cost: float = 1, rate: Rate | None = None) -> float:
        """Return what `take` would, without taking."""
        return self._after(key, now_s, cost, rate or self._rate)[0]

    def clear(self, key: K) -> None:
        """Fill the bucket of a key."""
        self._full_at.pop(key, None)

    def __len__(self) -> int:
        return len(self._full_at)

    def _after(self, key: K, now_s: float, cost: float, rate: Rate) -> tuple[float, float]:
        if cost > rate.burst:
            return float("inf"), now_s
        full_at = max(now_s, self._full_at.get(key, now_s)) + cost / rate.per_second
        # Rounding must not refuse the last token of a burst.
        wait_s = full_at - now_s - rate.burst / rate.per_second
        return (wait_s if wait_s > 1e-6 else 0.0), full_at

    def _forget_full(self, now_s: float) -> None:
        while self._full_at:
            key, full_at = next(iter(self._full_at.items()))
            if full_at > now_s and len(self._full_at) <= self._max_keys:
                return
            del self._full_at[key]
