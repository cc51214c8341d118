"""Waiting for uploads to created addresses, in any process.

Uploads are announced on the stream `caches`. A waiter registers before it reads the database; an
upload that commits after the read is announced after the registration, and wakes it. Resets of the
stream, and rows without keys, wake all waiters, which then read again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import attrs
import trio

from hs.core.streams import CACHES, CacheRow
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter

CACHE_NAME = "media"


@attrs.define(eq=False)
class UploadWaiters:
    """The announcements of uploads, and the requests of this process that wait for them."""

    _feed: Feed
    _caches: MemoryWriter[CacheRow]
    _waiting: dict[str, set[trio.Event]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(CACHES, self._on_caches)

    def announce(self, uri: str) -> None:
        """Announce to all processes that an address has its content; call it after the commit."""
        self._caches.append_nowait([CacheRow(CACHE_NAME, (uri,))])

    @contextmanager
    def wait_for(self, uri: str) -> Iterator[trio.Event]:
        """Yield an event that is set when the address may have its content."""
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
