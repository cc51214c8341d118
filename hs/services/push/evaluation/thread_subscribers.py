"""The subscribers of threads, in the process that evaluates events.

Spec: MSC4306.
"""

from typing import Final

from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import THREAD_SUBSCRIPTIONS, ThreadSubscriptionRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.storage.database import Database
from hs.storage.rooms import thread_subscriptions as storage

MAX_THREADS: Final = 20_000

_Thread = tuple[RoomID, EventID]


class ThreadSubscribers:
    """The subscribers of recently active threads."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._entries: LruCache[_Thread, frozenset[UserID]] = LruCache(
            "thread_subscribers", max_entries=MAX_THREADS
        )
        self._cache = LoadingCache(self._entries, self._read)
        feed.subscribe(THREAD_SUBSCRIPTIONS, self._on_rows)

    def of_nowait(self, room_id: RoomID, root_id: EventID) -> frozenset[UserID] | None:
        """Return the subscribers of a thread if they are in memory."""
        return self._entries.get((room_id, root_id))

    async def load(self, room_id: RoomID, root_id: EventID) -> None:
        """Read the subscribers of a thread into memory, unless they are there."""
        await self._cache.get((room_id, root_id))

    async def _read(self, thread: _Thread) -> frozenset[UserID]:
        user_ids = await self._database.read(storage.list_subscribers, *thread)
        return frozenset(map(UserID, user_ids))

    def _on_rows(self, batch: Batch[ThreadSubscriptionRow]) -> None:
        for _, row in batch.rows:
            self._cache.invalidate((RoomID(row.room_id), EventID(row.root_id)))
