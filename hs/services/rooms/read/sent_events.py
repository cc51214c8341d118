"""The transactions by which clients of this server sent events, which only the senders see."""

from collections.abc import Iterable
from typing import Final

from hs.core.ids import EventID
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.storage.database import Database
from hs.storage.rooms import transaction_ids

MAX_EVENTS: Final = 10_000
_NO_TRANSACTION: Final = ("", "")


class SentEvents:
    """The cache of (device ID, transaction ID) by event.

    The feed fills it from the first question on: most processes are never asked.
    """

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed
        self._is_following = False
        self._transactions: LruCache[EventID, tuple[str, str]] = LruCache(
            "transaction_ids_of_events", max_entries=MAX_EVENTS
        )

    async def load(self, event_ids: Iterable[EventID], sender: str) -> None:
        """Read what is not in memory of events of one sender."""
        if not self._is_following:
            self._is_following = True
            self._feed.subscribe(EVENTS, self._on_rows)
        unknown = [event_id for event_id in event_ids if event_id not in self._transactions]
        if not unknown:
            return
        found = await self._database.read(transaction_ids.find_by_events, sender, unknown)
        for event_id in unknown:
            self._transactions.put(event_id, found.get(event_id, _NO_TRANSACTION))

    def transaction(self, event_id: EventID) -> tuple[str, str]:
        """Return the device and the transaction ID of an event that was loaded, or two ""."""
        return self._transactions.get(event_id) or _NO_TRANSACTION

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.txn is not None:
                self._transactions.put(EventID(row.event_id), row.txn)
