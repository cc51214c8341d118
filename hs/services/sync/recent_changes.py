"""Which keys a stream touched lately: users with new account data, rooms where somebody types."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

from hs.core.positions import VectorPosition
from hs.repl.feed import Batch, Feed
from hs.repl.streams import StreamDef

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

MAX_KEYS: Final = 50_000


class Recent(Generic[K, R]):
    """Remembers for each key the last position that touched it, back to a known point."""

    def __init__(
        self,
        feed: Feed,
        stream: StreamDef[R],
        keys_of: Callable[[R], Iterable[K]],
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._feed = feed
        self._stream = stream
        self._keys_of = keys_of
        self._max_keys = max_keys
        # For each writer, its keys in the order of the last rows that touched them.
        self._last: dict[str, OrderedDict[K, int]] = {}
        # Whoever is behind this may have missed keys; set by the first batch.
        self._floor: VectorPosition | None = None
        feed.subscribe(stream, self._on_rows)

    def since(self, position: VectorPosition) -> set[K] | None:
        """Give the keys touched behind a position; None: that is too long ago to say."""
        floor = self._feed.position(self._stream) if self._floor is None else self._floor
        if not position.covers_all(floor):
            return None
        return self.known_since(position)

    def known_since(self, position: VectorPosition) -> set[K]:
        """Give those keys touched behind a position that are remembered; there may be more."""
        keys: set[K] = set()
        for writer, last in self._last.items():
            seen = position.get(writer)
            for key, number in reversed(last.items()):
                if number <= seen:
                    break
                keys.add(key)
        return keys

    def touched(self, key: K, position: VectorPosition) -> bool:
        """Tell whether a key was touched behind a position, or may have been."""
        floor = self._feed.position(self._stream) if self._floor is None else self._floor
        if not position.covers_all(floor):
            return True
        return any(
            not position.covers(writer, last.get(key, 0)) for writer, last in self._last.items()
        )

    def _on_rows(self, batch: Batch[R]) -> None:
        if self._floor is None:
            # While a batch is delivered, the feed tells the position before it.
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
