"""Rate limits shared by all processes, without a round trip per request.

Each process grants tokens from its own buckets, announces what it granted on the stream `rates`
after GATHER_S, and charges the announcements of the other processes to its buckets. Rules:

- A client that uses several processes at once may exceed the burst until the announcements arrive.
  Charges may overdraw a bucket, so the excess is paid for by a longer wait.
- Grants are summed per bucket and announced once they reach UNANNOUNCED_SHARE of the burst. Most
  clients never reach it, so that most requests cost no message.
- At most MAX_UNANNOUNCED sums are held. When there are more, all of them are dropped, because the
  error per bucket is small; this bounds memory under requests from very many clients.
- A process ignores its own rows: its buckets have been charged by the grant itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from hs.core.streams import RATES, RatesRow
from hs.lib.limiter import RateLimiter, TokenBucketRate
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter

GATHER_S: Final = 0.1
UNANNOUNCED_SHARE: Final = 0.03
"""The share of a burst that a process may grant without announcing it."""

MAX_UNANNOUNCED: Final = 50_000  # buckets
MAX_ROW_ENTRIES: Final = 1000  # buckets in one row

_Key = tuple[str, str]


@attrs.frozen
class _SharedLimiter:
    limiter: RateLimiter[str]
    now_s: Callable[[], float]


@attrs.define(eq=False)
class SharedRateLimits:
    """The shared limiters of one process; limiters of one name form a group across processes."""

    _feed: Feed
    _writer: MemoryWriter[RatesRow]
    _limiters: dict[str, _SharedLimiter] = attrs.Factory(dict)
    _unannounced: dict[_Key, float] = attrs.Factory(dict)
    _to_announce: set[_Key] = attrs.Factory(set)
    _wake: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(RATES, self._on_rows)

    def make(
        self, name: str, rate: TokenBucketRate, now_s: Callable[[], float] = trio.current_time
    ) -> RateLimiter[str]:
        """Create a limiter; every process creates one of each name."""
        limiter: RateLimiter[str] = RateLimiter(rate, granted=partial(self._on_granted, name))
        self._limiters[name] = _SharedLimiter(limiter, now_s)
        return limiter

    async def run(self) -> None:
        """Announce grants until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep(GATHER_S)
            self.announce()

    def announce(self) -> None:
        """Announce the grants since the last announcement, from buckets that need it."""
        self._wake = trio.Event()
        keys, self._to_announce = list(self._to_announce), set()
        rows = [(*key, self._unannounced.pop(key)) for key in keys if key in self._unannounced]
        for first in range(0, len(rows), MAX_ROW_ENTRIES):
            self._writer.append_nowait([RatesRow(tuple(rows[first : first + MAX_ROW_ENTRIES]))])

    def _on_granted(self, name: str, key: str, cost_s: float, burst_s: float) -> None:
        bucket = (name, key)
        unannounced = self._unannounced.get(bucket, 0.0) + cost_s
        self._unannounced[bucket] = unannounced
        if unannounced >= UNANNOUNCED_SHARE * burst_s:
            self._to_announce.add(bucket)
            self._wake.set()
        elif len(self._unannounced) > MAX_UNANNOUNCED:
            # Small sums of many buckets: the error in each is below the share that is tolerated.
            self._unannounced.clear()

    def _on_rows(self, batch: Batch[RatesRow]) -> None:
        if batch.writer == self._writer.writer:
            return
        for _, row in batch.rows:
            for name, key, cost_s in row.granted:
                shared = self._limiters.get(name)
                if shared is not None:
                    shared.limiter.charge(key, shared.now_s(), cost_s)
