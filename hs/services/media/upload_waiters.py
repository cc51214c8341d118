"""Waiting for the content of an address that was announced, whichever process it is uploaded to."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import attrs
import trio

from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
from hs.repl.streams import CACHES

CACHE_NAME = "media"


@attrs.define(eq=False)
class Arrivals:
    """Tells of uploads through the stream of caches, and wakes those who wait for them."""

    _feed: Feed
    _caches: MemoryWriter[CacheRow]
    _waiting: dict[str, set[trio.Event]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(CACHES, self._on_caches)

    def tell(self, uri: str) -> None:
        """Tell every process that an address has its content."""
        self._caches.append_nowait([CacheRow(CACHE_NAME, (uri,))])

    @contextmanager
    def waiting(self, uri: str) -> Iterator[trio.Event]:
        """Give an event that is set when the address may have got its content."""
        event = trio.Event()
        self._waiting.setdefault(uri, set()).add(event)
        try:
            yield event
        finally:
            events = self._waiting.get(uri, set())
            events.discard(event)
            if not events:
                self._waiting.pop(uri, None)

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if not self._waiting:
            return
        if batch.reset:
            self._wake(self._waiting)
        for _, row in batch.rows:
            if row.cache == CACHE_NAME:
                self._wake(row.keys or self._waiting)

    def _wake(self, uris: Iterable[str]) -> None:
        for uri in uris:
            for event in self._waiting.get(uri, ()):
                event.set()
