"""Limits on the requests of each other server, so that one that floods this server slows itself.

Rules:

- Of each server, `concurrent` requests run at a time; the others wait in order of arrival.
- A server that has sent more than `sleep_limit` requests within `window_size` has each further one
  delayed by `sleep_delay`. If `reject_limit` of its requests are delayed or waiting, more are
  rejected.
- Waiting happens outside the gates, which all servers share.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs
import trio

from hs.core.errors import LimitExceeded
from hs.lib.fairness.shares import ShareExceeded, Shares
from hs.settings.sections.rate_limits import FederationRates

T = TypeVar("T")

MAX_ORIGINS: Final = 10_000
"""Servers whose last requests are remembered."""


@attrs.define(eq=False)
class OriginLimits:
    """The requests of other servers in this process; None: without limits."""

    rates: FederationRates | None = None
    _recent: OrderedDict[str, deque[float]] = attrs.Factory(OrderedDict)
    _delayed: Counter[str] = attrs.Factory(Counter)
    _shares: Shares[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        rates = self.rates or FederationRates()
        self._shares = Shares(running=rates.concurrent, waiting=rates.reject_limit)

    async def run(self, origin: str, handle: Callable[[], Awaitable[T]]) -> T:
        """Run a function within the limits of a server. Raises: LimitExceeded."""
        rates = self.rates
        if rates is None:
            return await handle()
        if self._count(origin, rates) > rates.sleep_limit:
            await self._delay(origin, rates)
        try:
            await self._shares.acquire(origin)
        except ShareExceeded:
            raise _too_many(rates) from None
        try:
            return await handle()
        finally:
            self._shares.release(origin)

    def _count(self, origin: str, rates: FederationRates) -> int:
        """Count a request; return the number of requests within the window."""
        now_s = trio.current_time()
        times = self._recent.setdefault(origin, deque(maxlen=rates.sleep_limit + 1))
        self._recent.move_to_end(origin)
        times.append(now_s)
        while times[0] < now_s - rates.window_size / 1000:
            times.popleft()
        if len(self._recent) > MAX_ORIGINS:
            self._recent.popitem(last=False)
        return len(times)

    async def _delay(self, origin: str, rates: FederationRates) -> None:
        if self._delayed[origin] >= rates.reject_limit:
            raise _too_many(rates)
        self._delayed[origin] += 1
        try:
            await trio.sleep(rates.sleep_delay / 1000)
        finally:
            self._delayed[origin] -= 1
            if not self._delayed[origin]:
                del self._delayed[origin]


def _too_many(rates: FederationRates) -> LimitExceeded:
    return LimitExceeded(
        "Too many requests of your server at once", retry_after_ms=rates.window_size
    )
