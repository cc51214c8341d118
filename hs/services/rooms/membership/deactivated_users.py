"""Remove deactivated users from their rooms; the RoomDeparture of the account services.

This happens after the client has its response. What a process leaves undone when it ends, a
periodic job finds in the tables later.
"""

import logging
from collections import OrderedDict
from typing import Final

import attrs
import trio

from hs.core.errors import MatrixError
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.receive.outside_leave import OutsideLeaves
from hs.services.rooms.store.memberships import LocalMembership, Memberships
from hs.storage.accounts import deactivated_users
from hs.storage.database import Database

log = logging.getLogger(__name__)

PRESENT: Final = (event_types.JOIN, event_types.INVITE, event_types.KNOCK)
MAX_WAITING: Final = 10_000  # users; the others are found by `finish_others`
FINISH_PERIOD_S: Final = 900.0


@attrs.frozen(eq=False)
class RoomDepartures:
    """Leaves rooms and rejects invites on behalf of deactivated users.

    `run` is the duty that does the work.
    """

    _database: Database
    _appender: RoomAppender
    _memberships: Memberships
    _outside: OutsideLeaves
    _waiting: OrderedDict[UserID, None] = attrs.Factory(OrderedDict)
    _arrived: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(0))

    async def depart(self, user_id: UserID) -> None:
        """Queue a user to leave all rooms and reject all invites; return at once."""
        if len(self._waiting) < MAX_WAITING and user_id not in self._waiting:
            self._waiting[user_id] = None
            self._arrived.release()

    async def run(self) -> None:
        """Process queued users until cancelled."""
        while True:
            await self._arrived.acquire()
            user_id, _ = self._waiting.popitem(last=False)
            await self.leave_all(user_id)

    async def finish_others(self) -> None:
        """Process the users that a process left unfinished when it ended."""
        for user_id in await self._database.read(deactivated_users.list_still_in_rooms):
            await self.leave_all(user_id)

    async def leave_all(self, user_id: UserID) -> None:
        """Remove a user from all rooms."""
        # The user may have joined rooms through another process just before.
        for room_id, own in (await self._memberships.stored_rooms_of(user_id)).items():
            if own.membership in PRESENT:
                await self._leave(room_id, user_id, own)

    async def _leave(self, room_id: RoomID, user_id: UserID, own: LocalMembership) -> None:
        draft = Draft(
            event_types.MEMBER,
            user_id,
            {"membership": event_types.LEAVE},
            user_id,
            replaces=EventID(own.event_id),
        )
        try:
            await self._appender.append(room_id, [draft])
        except MatrixError as error:
            # In a room that this server is not in, nobody else is told that the user is gone.
            if not await self._outside.leave(own, {"membership": event_types.LEAVE}):
                log.warning(
                    "deactivated user %s could not leave room %s: %s", user_id, room_id, error
                )
