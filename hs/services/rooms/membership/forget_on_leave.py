"""Has users forget rooms that they leave, or are made to leave, where the administrator says so."""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow, EventRow
from hs.repl.streams import EVENTS
from hs.services.rooms.store.memberships import CACHE_NAME
from hs.storage.database import Database
from hs.storage.rooms import rooms

MAX_WAITING: Final = 10_000  # the oldest is dropped: that room is not forgotten by itself
_GONE: Final = (event_types.LEAVE, event_types.BAN)


class ForgettingLeavers:
    """Follows memberships in the rooms of this process; `run` is the duty that does the work."""

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
        self._waiting: deque[tuple[UserID, RoomID]] = deque(maxlen=MAX_WAITING)
        self._arrived = trio.Event()
        feed.subscribe(EVENTS, self._on_events)

    async def run(self) -> None:
        """Work for ever."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            await self.forget_waiting()

    async def forget_waiting(self) -> None:
        """Have those forget who have left."""
        while self._waiting:
            user_id, room_id = self._waiting.popleft()
            if await self._database.write(rooms.forget, user_id, room_id):
                self._cache_drops.append_nowait([CacheRow(CACHE_NAME, (user_id,))])

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            for event_type, state_key, _, membership in row.changes():
                if event_type != event_types.MEMBER or membership not in _GONE:
                    continue
                if self._is_local(state_key) and self._owns(RoomID(row.room_id)):
                    self._waiting.append((UserID(state_key), RoomID(row.room_id)))
                    self._arrived.set()
