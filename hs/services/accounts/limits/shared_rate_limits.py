"""Rate limits that hold for all processes together, without asking anybody for each request.

Each process counts what it grants, and tells the others a moment later; they charge it to their
own buckets. Who goes to several processes at once may get a little more for that moment, and
waits the longer for it afterwards.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from hs.lib.limiter import Rate, RateLimiter
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import RatesRow
from hs.repl.streams import RATES

GATHER_S: Final = 0.1
UNTOLD: Final = 0.03
"""The part of a burst that a process may grant without telling."""

MAX_UNTOLD: Final = 50_000
MAX_TOLD: Final = 1000

_Key = tuple[str, str]


@attrs.frozen
class _Shared:
    limiter: RateLimiter[str]
    now_s: Callable[[], float]


@attrs.define(eq=False)
class SharedRates:
    """The limiters of one process, each known to the other processes by its name."""

    _feed: Feed
    _writer: MemoryWriter[RatesRow]
    _shared: dict[str, _Shared] = attrs.Factory(dict)
    _untold: dict[_Key, float] = attrs.Factory(dict)
    _to_tell: set[_Key] = attrs.Factory(set)
    _wake: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(RATES, self._on_rows)

    def make(
        self, name: str, rate: Rate, now_s: Callable[[], float] = trio.current_time
    ) -> RateLimiter[str]:
        """Make a limiter; every process makes one of this name."""
        limiter: RateLimiter[str] = RateLimiter(rate, granted=partial(self._granted, name))
        self._shared[name] = _Shared(limiter, now_s)
        return limiter

    async def run(self) -> None:
        """Tell the others what was granted, for ever."""
        while True:
            await self._wake.wait()
            await trio.sleep(GATHER_S)
            self.tell()

    def tell(self) -> None:
        """Tell the others what was granted since the last time."""
        self._wake = trio.Event()
        keys, self._to_tell = list(self._to_tell), set()
        rows = [(*key, self._untold.pop(key)) for key in keys if key in self._untold]
        for first in range(0, len(rows), MAX_TOLD):
            self._writer.append_nowait([RatesRow(tuple(rows[first : first + MAX_TOLD]))])

    def _granted(self, name: str, key: str, cost_s: float, burst_s: float) -> None:
        place = (name, key)
        untold = self._untold.get(place, 0.0) + cost_s
        self._untold[place] = untold
        if untold >= UNTOLD * burst_s:
            self._to_tell.add(place)
            self._wake.set()
        elif len(self._untold) > MAX_UNTOLD:
            # Little of many: of each less than could be told from being exact.
            self._untold.clear()

    def _on_rows(self, batch: Batch[RatesRow]) -> None:
        if batch.writer == self._writer.writer:
            return
        for _, row in batch.rows:
            for name, key, cost_s in row.granted:
                shared = self._shared.get(name)
                if shared is not None:
                    shared.limiter.charge(key, shared.now_s(), cost_s)
