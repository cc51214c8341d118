"""Rate limits by token bucket, one bucket per key; the caller passes the time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs
from attrs.validators import gt

K = TypeVar("K", bound=Hashable)


@attrs.frozen
class TokenBucketRate:
    """`burst` actions at once, and `per_second` more as time passes."""

    per_second: float = attrs.field(validator=gt(0))
    burst: float = attrs.field(validator=gt(0))


class RateLimiter(Generic[K]):
    """Token buckets of up to `max_keys` keys; a bucket that was dropped counts as full.

    A bucket is stored as the time at which it will be full again, a single number. `granted` is
    called with every grant: the key, the cost and the burst, the latter two in seconds.
    """

    def __init__(
        self,
        rate: TokenBucketRate,
        max_keys: int = 100_000,
        granted: Callable[[K, float, float], None] | None = None,
    ) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._granted = granted
        self._full_at: OrderedDict[K, float] = OrderedDict()

    def take(
        self, key: K, now_s: float, *, cost: float = 1, rate: TokenBucketRate | None = None
    ) -> float:
        """Take tokens and return 0, or take none and return the seconds until there are enough.

        `rate` overrides the limiter's rate for this key. A cost above the burst returns infinity.
        """
        rate = rate or self._rate
        wait_s, full_at = self._after_taking(key, now_s, cost, rate)
        if wait_s > 0:
            return wait_s
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        self._drop_full(now_s)
        if self._granted is not None:
            self._granted(key, cost / rate.per_second, rate.burst / rate.per_second)
        return 0.0

    def charge(self, key: K, now_s: float, cost_s: float) -> None:
        """Take tokens, in seconds, that another process has granted, even if too few are left."""
        self._full_at[key] = max(now_s, self._full_at.get(key, now_s)) + cost_s
        self._full_at.move_to_end(key)
        self._drop_full(now_s)

    def peek(
        self, key: K, now_s: float, *, cost: float = 1, rate: TokenBucketRate | None = None
    ) -> float:
        """Return the result of `take` without taking tokens."""
        return self._after_taking(key, now_s, cost, rate or self._rate)[0]

    def clear(self, key: K) -> None:
        """Refill the bucket of a key."""
        self._full_at.pop(key, None)

    def __len__(self) -> int:
        return len(self._full_at)

    def _after_taking(
        self, key: K, now_s: float, cost: float, rate: TokenBucketRate
    ) -> tuple[float, float]:
        if cost > rate.burst:
            return float("inf"), now_s
        full_at = max(now_s, self._full_at.get(key, now_s)) + cost / rate.per_second
        # A rounding error must not deny the last token of a burst.
        wait_s = full_at - now_s - rate.burst / rate.per_second
        return (wait_s if wait_s > 1e-6 else 0.0), full_at

    def _drop_full(self, now_s: float) -> None:
        while self._full_at:
            key, full_at = next(iter(self._full_at.items()))
            if full_at > now_s and len(self._full_at) <= self._max_keys:
                return
            del self._full_at[key]
