"""Who subscribes to threads, in memory where events are evaluated.

Spec: MSC4306.
"""

from typing import Final

from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import ThreadSubscriptionRow
from hs.repl.streams import THREAD_SUBSCRIPTIONS
from hs.storage.database import Database
from hs.storage.rooms import thread_subscriptions as storage

MAX_THREADS: Final = 20_000

_Thread = tuple[RoomID, EventID]


class SubscribersOfThreads:
    """The subscribers of threads that were active lately."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._held: LruCache[_Thread, frozenset[UserID]] = LruCache(
            "thread_subscribers", max_entries=MAX_THREADS
        )
        self._known = LoadingCache(self._held, self._read)
        feed.subscribe(THREAD_SUBSCRIPTIONS, self._on_rows)

    def of_nowait(self, room_id: RoomID, root_id: EventID) -> frozenset[UserID] | None:
        """Give a thread's subscribers, if they are in memory."""
        return self._held.get((room_id, root_id))

    async def load(self, room_id: RoomID, root_id: EventID) -> None:
        """Get a thread's subscribers into memory."""
        await self._known.get((room_id, root_id))

    async def _read(self, thread: _Thread) -> frozenset[UserID]:
        found = await self._database.read(storage.subscribers, *thread)
        return frozenset(UserID(one) for one in found)

    def _on_rows(self, batch: Batch[ThreadSubscriptionRow]) -> None:
        for _, row in batch.rows:
            self._known.invalidate((RoomID(row.room_id), EventID(row.root_id)))
