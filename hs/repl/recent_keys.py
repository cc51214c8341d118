"""The keys that recent rows of a stream touched: users with new account data, rooms with typing.

Rules: `_floor` is the position from which on every touched key is remembered. It is set before the
first batch is noted and raised when keys are dropped: because a writer forgot rows (a reset of the
batch) or because there are too many keys. A reader whose position does not cover the floor may
have missed keys and must assume that any key was touched.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

from hs.core.positions import VectorPosition
from hs.core.stream_def import StreamDef
from hs.repl.feed import Batch, Feed, Interest

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

MAX_KEYS: Final = 50_000


class RecentKeys(Generic[K, R]):
    """The last position at which each key of a stream was touched, back to a known position."""

    def __init__(
        self,
        feed: Feed,
        stream: StreamDef[R],
        keys_of: Callable[[R], Iterable[K]],
        max_keys: int = MAX_KEYS,
        interest: Interest = Interest.ALL,
    ) -> None:
        self._feed = feed
        self._stream = stream
        self._keys_of = keys_of
        self._max_keys = max_keys
        # For each writer its keys, in the order of the last rows that touched them.
        self._last: dict[str, OrderedDict[K, int]] = {}
        self._floor: VectorPosition | None = None
        feed.subscribe(stream, self._on_rows, interest)

    def since(self, position: VectorPosition) -> set[K] | None:
        """Return the keys touched after a position; None if the position is too old to say."""
        floor = self._feed.position(self._stream) if self._floor is None else self._floor
        if not position.covers_all(floor):
            return None
        return self.known_since(position)

    def known_since(self, position: VectorPosition) -> set[K]:
        """Return the remembered keys touched after a position; there may have been others."""
        keys: set[K] = set()
        for writer, last in self._last.items():
            seen = position.get(writer)
            for key, number in reversed(last.items()):
                if number <= seen:
                    break
                keys.add(key)
        return keys

    def remembers(self, key: K) -> bool:
        """Return whether a row that touched a key is remembered."""
        return any(key in last for last in self._last.values())

    def touched(self, key: K, position: VectorPosition) -> bool:
        """Return whether a key was touched after a position, or may have been."""
        floor = self._feed.position(self._stream) if self._floor is None else self._floor
        if not position.covers_all(floor):
            return True
        return any(
            not position.covers(writer, last.get(key, 0)) for writer, last in self._last.items()
        )

    def _on_rows(self, batch: Batch[R]) -> None:
        if self._floor is None:
            # During the delivery of a batch, the feed's position is the one before it.
            self._floor = self._feed.position(self._stream)
        if batch.reset:
            self._floor = self._floor.advance(batch.writer, batch.prev or batch.position)
            self._last.pop(batch.writer, None)
        last = self._last.setdefault(batch.writer, OrderedDict())
        for number, row in batch.rows:
            for key in self._keys_of(row):
                last[key] = number
                last.move_to_end(key)
        while len(last) > self._max_keys:
            _, number = last.popitem(last=False)
            self._floor = self._floor.advance(batch.writer, number)
