"""Token buckets, backoff and clocks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.backoff import Backoff
from hs.lib.clock import FixedClock, SystemClock, TrioClock
from hs.lib.limiter import RateLimiter, TokenBucketRate


def test_burst_is_granted_at_once_then_one_per_interval() -> None:
    limiter: RateLimiter[str] = RateLimiter(TokenBucketRate(per_second=2, burst=3))

    granted = [limiter.take("a", 100.0) for _ in range(3)]

    assert granted == [0, 0, 0]
    assert limiter.take("a", 100.0) == pytest.approx(0.5)
    assert limiter.take("a", 100.5) == 0
    assert limiter.take("b", 100.5) == 0


def test_peek_takes_no_tokens() -> None:
    limiter: RateLimiter[str] = RateLimiter(TokenBucketRate(1, 1))

    assert limiter.peek("a", 5) == limiter.peek("a", 5) == 0
    assert limiter.take("a", 5) == 0
    assert limiter.peek("a", 5) == pytest.approx(1)


def test_rate_can_be_overridden_for_a_key() -> None:
    limiter: RateLimiter[str] = RateLimiter(TokenBucketRate(1, 1))
    higher_rate = TokenBucketRate(1000, 50)

    assert [limiter.take("a", 0, rate=higher_rate) for _ in range(50)] == [0] * 50


def test_cost_above_burst_is_never_granted() -> None:
    limiter: RateLimiter[str] = RateLimiter(TokenBucketRate(1, 5))

    assert limiter.take("a", 0, cost=6) == math.inf


@given(
    st.floats(0.1, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 3), min_size=1, max_size=80),
)
def test_grants_never_exceed_burst_and_rate(
    per_second: float, burst: int, pauses: list[float]
) -> None:
    limiter: RateLimiter[int] = RateLimiter(TokenBucketRate(per_second, burst))
    now_s, granted = 1000.0, 0

    for pause_s in pauses:
        now_s += pause_s
        granted += limiter.take(0, now_s) == 0

    assert granted <= burst + (now_s - 1000.0) * per_second + 1e-3


@given(st.floats(0.1, 50), st.integers(1, 5))
def test_take_succeeds_after_the_returned_wait(per_second: float, burst: int) -> None:
    limiter: RateLimiter[int] = RateLimiter(TokenBucketRate(per_second, burst))
    now_s = 50.0
    for _ in range(20):
        wait_s = limiter.peek(0, now_s)
        now_s += wait_s
        assert limiter.take(0, now_s) == 0


def test_number_of_buckets_is_bounded_and_full_ones_are_dropped() -> None:
    limiter: RateLimiter[int] = RateLimiter(TokenBucketRate(1, 1), max_keys=10)

    for key in range(50):
        limiter.take(key, 0.0)
    after_many_keys = len(limiter)
    limiter.take(99, 100.0)

    assert after_many_keys == 10
    assert len(limiter) == 1


def test_backoff_grows_to_limit_and_resets() -> None:
    backoff = Backoff(1, 10, chance=lambda: 0.0)

    delays = [backoff.next_s() for _ in range(6)]
    backoff.reset()

    assert delays == [1, 2, 4, 8, 10, 10]
    assert backoff.next_s() == 1
    assert backoff.delay_s(1_000_000) == 10


def test_backoff_jitter_shortens_delays() -> None:
    backoff = Backoff(8, 8, jitter=0.5, chance=lambda: 0.5)

    assert backoff.next_s() == 6


async def test_clocks_return_milliseconds() -> None:
    fixed = FixedClock(5)
    fixed.advance(7)

    assert fixed.now_ms() == 12
    assert SystemClock().now_ms() > 1_600_000_000_000
    assert TrioClock().now_ms() >= 1_700_000_000_000
