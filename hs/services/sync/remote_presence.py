"""Wakes clients when the presence changes of users who do not sync through this process.

The notifier knows only the rooms of users who sync here. The rooms of others are read, of many
users together, and of no more users at a time than is worth it for the clients that wait.
"""

from collections.abc import Iterator
from typing import Final

from hs.core.ids import RoomID, UserID
from hs.core.streams import PRESENCE, PresenceRow
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.rooms.store.memberships import Memberships
from hs.services.sync.notifier import Notifier

GATHER_S: Final = 0.2
AT_ONCE: Final = 100
MAX_WAITING: Final = 2_000
"""Users that wait. Clients learn of the presence of further users at their next wake-up."""


class RemotePresenceDuty:
    """The users with changed presence whose rooms are to be read."""

    def __init__(self, feed: Feed, notifier: Notifier, memberships: Memberships) -> None:
        self._notifier = notifier
        self._memberships = memberships
        self._users: FeedQueue[UserID] = FeedQueue(
            "remote presence", MAX_WAITING, WhenFull.DROP_NEWEST
        )
        self._users.follow(feed, PRESENCE, self._users_in)

    async def run(self) -> None:
        """Wake clients for ever; a duty of the process."""
        await self._users.serve(self._wake_for, at_most=AT_ONCE, gather_s=GATHER_S)

    async def wake(self) -> None:
        """Wake the clients that share rooms with the users that wait."""
        await self._users.serve_waiting(self._wake_for, at_most=AT_ONCE)

    async def _wake_for(self, user_ids: list[UserID]) -> None:
        room_ids: set[RoomID] = set()
        for user_id in user_ids:
            room_ids.update(await self._memberships.joined_rooms(user_id))
        self._notifier.wake_rooms(room_ids)

    def _users_in(self, batch: Batch[PresenceRow]) -> Iterator[UserID]:
        if not len(self._notifier):
            return
        for _, row in batch.rows:
            user_id = UserID(row.user_id)
            if not row.is_quiet and not self._notifier.has_watch(user_id):
                yield user_id
