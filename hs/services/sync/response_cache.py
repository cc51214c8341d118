"""The cache of complete sync responses, for clients that repeat a request after a lost response.

Rules:

- A response is returned again only for an equal request, within the cache duration, and only while
  nothing changed for the user: the user's watch is the same object with the same number of changes,
  and the user's rooms are the same object. A watch that was dropped and created again starts
  counting anew, so its identity is part of the check.
- A response is stored only if nothing changed while it was computed. Otherwise a repeated request,
  which arrives after the change, would miss it.
- Forgetting a room does not wake the watch; the identity of the rooms covers it.
- Responses with to-device messages must not be stored (see `SyncService`): the messages would be
  delivered again after they were acknowledged.
"""

from typing import Final, NamedTuple

import trio

from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.store.memberships import RoomsOf
from hs.services.sync.notifier import Watch
from hs.services.sync.sync_context import SyncRequest

MAX_BYTES: Final = 8 * 1024 * 1024


class _CachedResponse(NamedTuple):
    watch: Watch
    changes: int
    rooms: RoomsOf
    until: float
    response: bytes


def _weigh(request: SyncRequest, cached: _CachedResponse) -> int:
    return 500 + len(cached.response)


class ResponseCache:
    """The cached responses of one process."""

    def __init__(self, kept_for_ms: int) -> None:
        self._duration_s = kept_for_ms / 1000
        self._responses: LruCache[SyncRequest, _CachedResponse] = LruCache(
            "sync_responses", max_weight=MAX_BYTES, weigh=_weigh
        )

    def get(self, request: SyncRequest, watch: Watch, rooms: RoomsOf) -> bytes | None:
        """Return the response to an equal request if it is still current."""
        cached = self._responses.get(request)
        if cached is None:
            return None
        if (
            cached.watch is not watch
            or cached.changes != watch.changes
            or cached.rooms is not rooms
            or cached.until < trio.current_time()
        ):
            self._responses.pop(request)
            return None
        return cached.response

    def put(
        self, request: SyncRequest, watch: Watch, changes: int, rooms: RoomsOf, response: bytes
    ) -> None:
        """Store a response unless the watch changed meanwhile.

        `changes` is the number of changes of the watch before the response was computed.
        """
        if self._duration_s > 0 and watch.changes == changes:
            until = trio.current_time() + self._duration_s
            self._responses.put(request, _CachedResponse(watch, changes, rooms, until, response))
