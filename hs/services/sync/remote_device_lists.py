"""Wakes clients when the device lists change of users who do not sync through this process.

The notifier knows only the rooms of users who sync here. The rooms of others are often in memory;
if they are not, they are read.
"""

from collections.abc import Iterator
from typing import Final

from hs.core.events import event_types
from hs.core.ids import UserID
from hs.core.streams import DEVICE_LISTS, DeviceListRow
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.rooms.store.memberships import Memberships
from hs.services.sync.notifier import Notifier
from hs.storage.database import Database
from hs.storage.devices import device_lists

AT_ONCE: Final = 100
MAX_WAITING: Final = 10_000
"""Users that wait. Clients learn of the device lists of further users at their next wake-up."""


class RemoteDeviceListDuty:
    """The users with changed device lists whose rooms are to be read."""

    def __init__(
        self, database: Database, feed: Feed, notifier: Notifier, memberships: Memberships
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._memberships = memberships
        self._users: FeedQueue[UserID] = FeedQueue(
            "remote device lists", MAX_WAITING, WhenFull.DROP_NEWEST
        )
        self._users.follow(feed, DEVICE_LISTS, self._users_to_read)

    async def run(self) -> None:
        """Wake clients for ever; a duty of the process."""
        await self._users.serve(self._wake_for, at_most=AT_ONCE)

    async def _wake_for(self, user_ids: list[UserID]) -> None:
        for user_id in user_ids:
            self._notifier.wake_rooms(
                await self._memberships.joined_rooms(user_id)
                if self._memberships.is_local(user_id)
                else await self._database.read(device_lists.joined_rooms, user_id)
            )

    def _users_to_read(self, batch: Batch[DeviceListRow]) -> Iterator[UserID]:
        """Wake the clients that share rooms with users whose rooms are in memory."""
        if not len(self._notifier):
            return
        for _, row in batch.rows:
            user_id = UserID(row.user_id)
            if row.signatures or self._notifier.has_watch(user_id):
                continue
            rooms = self._memberships.rooms_of_nowait(user_id)
            if rooms is None:
                yield user_id
            else:
                self._notifier.wake_rooms(
                    room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN
                )
