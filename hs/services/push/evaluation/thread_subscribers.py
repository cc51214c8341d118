"""The subscribers of threads, in the process that evaluates events.

Spec: MSC4306.
"""

from collections.abc import Set as AbstractSet
from typing import Final

from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import THREAD_SUBSCRIPTIONS, ThreadSubscriptionRow
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.followers import KeyFollower
from hs.storage.database import Database
from hs.storage.rooms import thread_subscriptions as storage

MAX_THREADS: Final = 20_000

_Thread = tuple[RoomID, EventID]
_Change = tuple[UserID, bool]  # whether the user subscribes from now on


class ThreadSubscribers:
    """The subscribers of recently active threads, who change with the feed."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._entries: LruCache[_Thread, set[UserID]] = LruCache(
            "thread_subscribers", max_entries=MAX_THREADS
        )
        self._follower = KeyFollower(self._entries, self._read, _with_change)
        feed.subscribe(THREAD_SUBSCRIPTIONS, self._on_rows)

    def of_nowait(self, room_id: RoomID, root_id: EventID) -> AbstractSet[UserID] | None:
        """Return the subscribers of a thread if they are in memory."""
        return self._entries.get((room_id, root_id))

    async def of(self, room_id: RoomID, root_id: EventID) -> AbstractSet[UserID]:
        """Return the subscribers of a thread."""
        return await self._follower.get((room_id, root_id))

    async def _read(self, threads: list[_Thread]) -> dict[_Thread, set[UserID]]:
        return {thread: await self._read_thread(*thread) for thread in threads}

    async def _read_thread(self, room_id: RoomID, root_id: EventID) -> set[UserID]:
        return set(
            map(UserID, await self._database.read(storage.list_subscribers, room_id, root_id))
        )

    def _on_rows(self, batch: Batch[ThreadSubscriptionRow]) -> None:
        for _, row in batch.rows:
            thread = (RoomID(row.room_id), EventID(row.root_id))
            self._follower.update(thread, (UserID(row.user_id), row.subscribed))


def _with_change(subscribers: set[UserID], change: _Change) -> set[UserID]:
    user_id, subscribes = change
    if subscribes:
        subscribers.add(user_id)
    else:
        subscribers.discard(user_id)
    return subscribers
