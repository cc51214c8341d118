"""Wakes clients for changes of users who do not sync through this process.

The notifier knows only the rooms of users who sync here. The rooms of others are often in memory;
if they are not, they are read.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final, Generic, TypeVar

import attrs

from hs.core.events import event_types
from hs.core.ids import UserID
from hs.core.stream_def import StreamDef
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import Database
from hs.storage.devices import device_lists

R = TypeVar("R")

AT_ONCE: Final = 100
MAX_WAITING: Final = 10_000
"""Users that wait. Clients learn of the changes of further users at their next wake-up."""


@attrs.frozen(eq=False)
class UserChangeWaking(Generic[R]):
    """The rows of a stream, the users whose rooms they need, and how to wake members of rooms.

    `stranger_of` returns the user of a row whose rooms are to be looked up, if that is necessary.
    """

    stream: StreamDef[R]
    stranger_of: Callable[[R], UserID | None]
    wake_rooms: Callable[[Collection[str]], None]


class RemoteUserDuty(Generic[R]):
    """The users with changes whose rooms are to be read."""

    def __init__(
        self, database: Database, feed: Feed, memberships: Memberships, waking: UserChangeWaking[R]
    ) -> None:
        self._database = database
        self._memberships = memberships
        self._waking = waking
        self._users: FeedQueue[UserID] = FeedQueue(
            f"remote users of {waking.stream.name}", MAX_WAITING, WhenFull.DROP_NEWEST
        )
        self._users.follow(feed, waking.stream, self._users_to_read)

    async def run(self) -> None:
        """Wake clients for ever; a duty of the process."""
        await self._users.serve(self._wake_for, at_most=AT_ONCE)

    async def _wake_for(self, user_ids: list[UserID]) -> None:
        for user_id in user_ids:
            self._waking.wake_rooms(
                await self._memberships.joined_rooms(user_id)
                if self._memberships.is_local(user_id)
                else await self._database.read(device_lists.joined_rooms, user_id)
            )

    def _users_to_read(self, batch: Batch[R]) -> Iterator[UserID]:
        """Wake the clients that share rooms with users whose rooms are in memory."""
        for _, row in batch.rows:
            user_id = self._waking.stranger_of(row)
            if user_id is None:
                continue
            rooms = self._memberships.rooms_of_nowait(user_id)
            if rooms is None:
                yield user_id
            else:
                self._waking.wake_rooms(
                    [
                        room_id
                        for room_id, own in rooms.items()
                        if own.membership == event_types.JOIN
                    ]
                )
