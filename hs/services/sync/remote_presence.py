"""Wakes clients for the presence of users who sync through other processes, or do not sync.

The notifier knows the rooms of those who sync here only. For others they are looked up, many
users together, and no more of them at a time than waiting clients gain from it.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import trio

from hs.core.ids import RoomID, UserID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import PresenceRow
from hs.repl.streams import PRESENCE
from hs.services.sync.notifier import Notifier

GATHER_S: Final = 0.2
AT_ONCE: Final = 100
MAX_WAITING: Final = 2_000
"""Of the users beyond these, clients are told at their next wake-up."""


class JoinedRooms(Protocol):
    """Knows the rooms of users."""

    async def joined_rooms(self, user_id: UserID) -> Sequence[RoomID]:
        """List the rooms that one of our users is joined to."""
        ...


class Strangers:
    """The users of a process's feed whose rooms are to be looked up."""

    def __init__(self, feed: Feed, notifier: Notifier, rooms: JoinedRooms) -> None:
        self._notifier = notifier
        self._rooms = rooms
        self._waiting: dict[UserID, None] = {}
        self._arrived = trio.Event()
        feed.subscribe(PRESENCE, self._on_presence)

    async def run(self) -> None:
        """Wake who shares rooms with them, for ever; a duty of the process."""
        while True:
            await self._arrived.wait()
            await trio.sleep(GATHER_S)
            await self.wake()

    async def wake(self) -> None:
        """Wake who shares rooms with the first of those who wait."""
        rooms: set[RoomID] = set()
        for user_id in list(self._waiting)[:AT_ONCE]:
            del self._waiting[user_id]
            rooms.update(await self._rooms.joined_rooms(user_id))
        if not self._waiting:
            self._arrived = trio.Event()
        self._notifier.wake_rooms(rooms)

    def _on_presence(self, batch: Batch[PresenceRow]) -> None:
        if not len(self._notifier):
            return
        for _, row in batch.rows:
            user_id = UserID(row.user_id)
            if not self._notifier.watches(user_id) and len(self._waiting) < MAX_WAITING:
                self._waiting[user_id] = None
                self._arrived.set()
