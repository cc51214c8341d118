"""Previews of links, each made once and kept for a while: in memory, and in a table for all."""

import hashlib
import logging

import attrs
import orjson
import trio

from hs.core.errors import LimitExceeded
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.services.previews.preview_builder import Links
from hs.services.previews.preview_fetcher import Fetcher, NotFetched
from hs.storage.database import Database
from hs.storage.media import url_previews

MEMORY_BYTES = 8 << 20
# How long a link that could not be fetched is not tried again.
FAULT_LIFE_S = 60
AT_ONCE = 8
MOST_WAITING = 100
BUSY_MS = 5000

log = logging.getLogger(__name__)


@attrs.frozen
class _Kept:
    answer: bytes | NotFetched
    expires_ms: int


@attrs.define(eq=False)
class Previews:
    """Gives the previews that clients ask for."""

    _database: Database
    _clock: Clock
    _fetcher: Fetcher
    _links: Links
    _memory: LruCache[str, _Kept] = attrs.field(init=False)
    _flights: SingleFlight[str] = attrs.field(factory=SingleFlight, init=False)
    _slots: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(AT_ONCE), init=False)

    def __attrs_post_init__(self) -> None:
        self._memory = LruCache("url_previews", max_weight=MEMORY_BYTES, weigh=_weight)

    async def preview(self, url: str) -> bytes:
        """Give the preview of a link, as JSON; it may be empty.

        Raises: InvalidParam (no link), Forbidden (not to be fetched), NotFetched, LimitExceeded.
        """
        url = self._fetcher.usual_form(url)
        kept = self._memory.get(url)
        if kept is None or kept.expires_ms <= self._clock.now_ms():
            kept = await self._flights.run(url, self._find, url)
        if isinstance(kept.answer, bytes):
            return kept.answer
        raise NotFetched(kept.answer.cause)

    async def forget_expired(self) -> None:
        """Delete what nobody is shown any more."""
        await self._database.write(url_previews.forget_expired, self._clock.now_ms())

    async def _find(self, url: str) -> _Kept:
        url_hash, now_ms = hashlib.sha256(url.encode()).hexdigest(), self._clock.now_ms()
        stored = await self._database.read(url_previews.get, url_hash, now_ms)
        kept = _Kept(*stored) if stored is not None else await self._make(url, url_hash)
        self._memory.put(url, kept)
        return kept

    async def _make(self, url: str, url_hash: str) -> _Kept:
        if self._slots.statistics().tasks_waiting >= MOST_WAITING:
            raise LimitExceeded("Too many previews", retry_after_ms=BUSY_MS)
        try:
            async with self._slots:
                preview = await self._links.read(url)
        except NotFetched as fault:
            # Which links users post is theirs to know: not for the log of every day.
            log.debug("no preview of a link: %s", fault.cause)
            return _Kept(fault, self._clock.now_ms() + FAULT_LIFE_S * 1000)
        answer = orjson.dumps(preview.properties)
        now_ms = self._clock.now_ms()
        expires_ms = now_ms + preview.life_s * 1000
        await self._database.write(url_previews.put, url_hash, url, answer, now_ms, expires_ms)
        return _Kept(answer, expires_ms)


def _weight(url: str, kept: _Kept) -> int:
    return 500 + len(url) + (len(kept.answer) if isinstance(kept.answer, bytes) else 0)
