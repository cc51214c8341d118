"""A limit on to-device messages to servers that share no room with this one.

Messages wait in the database, and their servers in the memory of a federation sender, until the
servers respond. A client can name any number of servers that do not exist.
"""

from collections.abc import Collection
from typing import Final

import attrs
import trio

from hs.core.errors import LimitExceeded
from hs.core.ids import ServerName, UserID
from hs.core.requester import Requester
from hs.lib.caching.lru_cache import LruCache
from hs.lib.limiter import RateLimiter, TokenBucketRate
from hs.storage.database import Database
from hs.storage.rooms import room_servers

RATE: Final = TokenBucketRate(per_second=0.05, burst=100)
"""Servers that share no room, for each user."""

REMEMBERED: Final = 20_000
_MAX_WAIT_S: Final = 3600.0


def _remembered() -> LruCache[ServerName, bool]:
    return LruCache("servers_sharing_rooms", max_entries=REMEMBERED)


@attrs.frozen(eq=False)
class UnknownDestinations:
    """Counts the servers without a shared room that users send messages to."""

    _database: Database
    _limiter: RateLimiter[UserID] = attrs.field(factory=lambda: RateLimiter(RATE), init=False)
    # Servers that have shared a room; that they left it makes no difference here.
    _known: LruCache[ServerName, bool] = attrs.field(factory=_remembered, init=False)

    async def check(self, requester: Requester, servers: Collection[ServerName]) -> None:
        """Count the servers. Raises: LimitExceeded."""
        if requester.is_rate_limit_exempt:
            return
        unknown = [server for server in servers if self._known.get(server) is None]
        if not unknown:
            return
        sharing = await self._database.read(room_servers.with_shared_rooms, unknown)
        for server in sharing:
            self._known.put(ServerName(server), True)
        count = len(unknown) - len(sharing)
        if not count:
            return
        wait_s = self._limiter.take(requester.user_id, trio.current_time(), cost=count)
        if wait_s:
            raise LimitExceeded(
                "Too many messages to servers that share no room with this one",
                retry_after_ms=round(min(wait_s, _MAX_WAIT_S) * 1000),
            )
