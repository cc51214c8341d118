"""Forgets rooms for users who leave them or are removed from them, where the settings say so."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from hs.core.errors import Unavailable
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.streams import EVENTS, CacheRow, EventRow
from hs.repl.entry_retries import EntryRetries
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.repl.memory_writer import MemoryWriter
from hs.services.rooms.store.memberships import CACHE_NAME, member_changes
from hs.storage.database import Database
from hs.storage.rooms import rooms

MAX_WAITING: Final = 10_000
"""Departures that wait; the oldest is dropped, and its user has to forget the room."""

log = logging.getLogger(__name__)

_GONE: Final = (event_types.LEAVE, event_types.BAN)


class ForgetOnLeaveDuty:
    """Follows departures from the rooms of this process; `run` is the duty that forgets them."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        cache_drops: MemoryWriter[CacheRow],
        is_local: Callable[[str], bool],
        owns: Callable[[RoomID], bool],
    ) -> None:
        self._database = database
        self._cache_drops = cache_drops
        self._is_local = is_local
        self._owns = owns
        self._departures: FeedQueue[tuple[UserID, RoomID]] = FeedQueue(
            "departures", MAX_WAITING, WhenFull.DROP_OLDEST
        )
        self._departures.follow(feed, EVENTS, self._departures_in, Interest.CHANGES)
        self._retries: EntryRetries[tuple[UserID, RoomID]] = EntryRetries()

    async def run(self) -> None:
        """Forget rooms for ever."""
        await self._departures.serve(self._forget)

    async def forget_waiting(self) -> None:
        """Forget the rooms of all departures that wait."""
        await self._departures.serve_waiting(self._forget)

    async def _forget(self, departures: list[tuple[UserID, RoomID]]) -> None:
        for user_id, room_id in departures:
            try:
                forgot = await self._database.write(rooms.forget, user_id, room_id)
                self._retries.succeeded()
            except Unavailable as error:
                if self._retries.may_retry((user_id, room_id), error):
                    raise
                log.warning("%s did not forget %s, skipping it: %s", user_id, room_id, error)
                continue
            if forgot:
                self._cache_drops.append_nowait([CacheRow(CACHE_NAME, (user_id,))])

    def _departures_in(self, batch: Batch[EventRow]) -> Iterator[tuple[UserID, RoomID]]:
        for _, row in batch.rows:
            for _, state_key, _, membership in member_changes(row):
                if membership not in _GONE:
                    continue
                if self._is_local(state_key) and self._owns(RoomID(row.room_id)):
                    yield UserID(state_key), RoomID(row.room_id)
