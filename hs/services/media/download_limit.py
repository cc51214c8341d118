"""The limit on the remote media that a client may have downloaded."""

import attrs
import trio

from hs.lib.limiter import RateLimiter
from hs.services.accounts.limits.rate_limits import (
    LimiterFactory,
    bucket_of,
    check_limit,
    make_local_limiter,
)
from hs.settings.sections.media import MediaSettings
from hs.settings.sections.rate_limits import Rate


@attrs.define(eq=False)
class RemoteDownloadLimit:
    """Counts the bytes that this server downloads for each client.

    The size of a download is not known before it, so it begins while anything is left, and is
    counted afterwards.
    """

    _settings: MediaSettings
    _make: LimiterFactory = make_local_limiter
    _limiter: RateLimiter[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._limiter = self._make("remote_media", bucket_of(self._rate))

    @property
    def _rate(self) -> Rate:
        settings = self._settings
        return Rate(
            settings.remote_media_download_per_second, settings.remote_media_download_burst_count
        )

    def check(self, client: str) -> None:
        """Raise LimitExceeded, if a client has nothing left."""
        check_limit(self._limiter, client)

    def count(self, client: str, size_bytes: int) -> None:
        """Count a download, even if it is larger than what the client had left."""
        rate, now_s = bucket_of(self._rate), trio.current_time()
        cost = min(float(size_bytes), rate.burst)
        if self._limiter.take(client, now_s, cost=cost) > 0:
            self._limiter.charge(client, now_s, cost / rate.per_second)
