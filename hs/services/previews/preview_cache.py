"""The cache of URL previews: in memory, and in the database for all processes.

Concurrent requests for a URL share one fetch. At most MAX_CONCURRENT URLs are fetched at the same
time, and MAX_WAITING requests wait; others are rejected. Slow sites make fetches long, so only a
few of these belong to one user. Failures are cached for FAULT_LIFE_S, in memory only.
"""

import hashlib
import logging

import attrs
import orjson
import trio

from hs.core.errors import LimitExceeded
from hs.core.ids import UserID
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.lib.fairness.shares import ShareExceeded, Shares
from hs.services.previews.preview_builder import PreviewBuilder
from hs.services.previews.preview_fetcher import NotFetched, PreviewFetcher
from hs.storage.database import Database
from hs.storage.media import url_previews

MEMORY_BYTES = 8 << 20
# How long a failed URL is not fetched again.
FAULT_LIFE_S = 60
MAX_CONCURRENT = 8
MAX_WAITING = 100
MAX_CONCURRENT_OF_USER = 3
MAX_WAITING_OF_USER = 50
BUSY_MS = 5000

log = logging.getLogger(__name__)


@attrs.frozen
class _Cached:
    """A preview, or why there is none; not as an exception, whose traceback keeps the page."""

    answer: bytes | None
    expires_ms: int
    cause: str = ""


@attrs.define(eq=False)
class UrlPreviews:
    """The URL previews that clients request."""

    _database: Database
    _clock: Clock
    _fetcher: PreviewFetcher
    _builder: PreviewBuilder
    _cache: LruCache[str, _Cached] = attrs.field(init=False)
    _flights: SingleFlight[str] = attrs.field(factory=SingleFlight, init=False)
    _shares: Shares[UserID] = attrs.field(
        factory=lambda: Shares(running=MAX_CONCURRENT_OF_USER, waiting=MAX_WAITING_OF_USER),
        init=False,
    )
    _slots: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(MAX_CONCURRENT), init=False)

    def __attrs_post_init__(self) -> None:
        self._cache = LruCache("url_previews", max_weight=MEMORY_BYTES, weigh=_weight)

    async def preview(self, url: str, user_id: UserID) -> bytes:
        """Return the preview of a URL as JSON, which may be empty, to a user.

        Raises: InvalidParam, Forbidden if the URL is blocked, NotFetched, LimitExceeded.
        """
        url = self._fetcher.normalized(url)
        cached = self._cache.get(url)
        if cached is None or cached.expires_ms <= self._clock.now_ms():
            cached = await self._find_in_share(url, user_id)
        if cached.answer is None:
            raise NotFetched(cached.cause)
        return cached.answer

    async def delete_expired(self) -> None:
        """Delete expired previews."""
        await self._database.write(url_previews.delete_expired, self._clock.now_ms())

    async def _find_in_share(self, url: str, user_id: UserID) -> _Cached:
        try:
            async with self._shares.hold(user_id):
                return await self._flights.run(url, self._find, url)
        except ShareExceeded:
            raise _busy() from None

    async def _find(self, url: str) -> _Cached:
        url_hash, now_ms = hashlib.sha256(url.encode()).hexdigest(), self._clock.now_ms()
        stored = await self._database.read(url_previews.get, url_hash, now_ms)
        cached = _Cached(*stored) if stored is not None else await self._build(url, url_hash)
        self._cache.put(url, cached)
        return cached

    async def _build(self, url: str, url_hash: str) -> _Cached:
        if self._slots.statistics().tasks_waiting >= MAX_WAITING:
            raise _busy()
        try:
            async with self._slots:
                preview = await self._builder.build(url)
        except NotFetched as fault:
            # URLs that users post are private, so they are not logged above the debug level.
            log.debug("generating a URL preview failed: %s", fault.cause)
            return _Cached(None, self._clock.now_ms() + FAULT_LIFE_S * 1000, fault.cause)
        answer = orjson.dumps(preview.properties)
        now_ms = self._clock.now_ms()
        expires_ms = now_ms + preview.life_s * 1000
        await self._database.write(url_previews.put, url_hash, url, answer, now_ms, expires_ms)
        return _Cached(answer, expires_ms)


def _busy() -> LimitExceeded:
    return LimitExceeded("Too many URL previews are being generated", retry_after_ms=BUSY_MS)


def _weight(url: str, cached: _Cached) -> int:
    return 500 + len(url) + len(cached.cause) + len(cached.answer or b"")
