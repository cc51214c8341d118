"""Whole answers kept for a while, for clients that ask again because the first got lost.

An answer is given again only while nothing happened that concerns the user.
"""

from typing import Final, NamedTuple

import trio

from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.store.memberships import RoomsOf
from hs.services.sync.notifier import Watch
from hs.services.sync.sync_context import SyncRequest

MAX_BYTES: Final = 8 * 1024 * 1024


class _Kept(NamedTuple):
    watch: Watch
    changes: int
    rooms: RoomsOf
    until: float
    answer: bytes


def _weigh(request: SyncRequest, kept: _Kept) -> int:
    return 500 + len(kept.answer)


class Answers:
    """The answers of one process."""

    def __init__(self, kept_for_ms: int) -> None:
        self._kept_for_s = kept_for_ms / 1000
        self._kept: LruCache[SyncRequest, _Kept] = LruCache(
            "sync_answers", max_weight=MAX_BYTES, weigh=_weigh
        )

    def find(self, request: SyncRequest, watch: Watch, rooms: RoomsOf) -> bytes | None:
        """Give the answer to an equal request, if it would still be the same.

        Of what happens to `rooms` a watch does not hear all: not when one is forgotten.
        """
        kept = self._kept.get(request)
        if kept is None:
            return None
        if (
            kept.watch is not watch
            or kept.changes != watch.changes
            or kept.rooms is not rooms
            or kept.until < trio.current_time()
        ):
            self._kept.pop(request)
            return None
        return kept.answer

    def keep(
        self, request: SyncRequest, watch: Watch, changes: int, rooms: RoomsOf, answer: bytes
    ) -> None:
        """Keep an answer that was begun when `changes` had happened."""
        if self._kept_for_s > 0 and watch.changes == changes:
            until = trio.current_time() + self._kept_for_s
            self._kept.put(request, _Kept(watch, changes, rooms, until, answer))
