"""Showing changed profiles in rooms: a new member event in each room that the user is joined to.

Done after the client has its answer, for each user once. Whoever leaves a room meanwhile stays
out: the new event only ever replaces the membership that was looked at. The profile is read after
that, so that of several processes which show changes of one user the last shows all of them.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import attrs
import trio

from hs.core.errors import BadState, MatrixError
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.services.rooms.appender import RoomAppender
from hs.services.rooms.drafts import Draft
from hs.services.rooms.member_profiles import shown
from hs.services.rooms.memberships import Memberships

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
AT_ONCE: Final = 4  # rooms of one user
MAX_USERS: Final = 10_000  # waiting; at the bound a change waits for the client's answer


class StoredProfiles(Protocol):
    """Knows the profiles of this server's users."""

    async def stored(self, user_id: UserID) -> Mapping[str, Any]:
        """Give a user's profile, whichever process has just changed it."""
        ...


@attrs.define(eq=False)
class RoomProfiles:
    """Changes the member events of users whose profiles have changed; a ProfilePropagation.

    `run` is the duty that does the work.
    """

    _appender: RoomAppender
    _memberships: Memberships
    _profiles: StoredProfiles
    _waiting: dict[UserID, None] = attrs.Factory(dict)
    _arrived: trio.Event = attrs.Factory(trio.Event)

    async def profile_changed(self, user_id: UserID) -> None:
        """Learn of a user's new name or avatar; returns soon, works on after that."""
        if len(self._waiting) >= MAX_USERS and user_id not in self._waiting:
            await self.show(user_id)
            return
        self._waiting[user_id] = None
        self._arrived.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work for ever."""
        task_status.started()
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._waiting:
                user_id = next(iter(self._waiting))
                del self._waiting[user_id]
                await self.show(user_id)

    async def show(self, user_id: UserID) -> None:
        """Put a user's profile into all of their member events."""
        slots = trio.Semaphore(AT_ONCE)
        rooms = await self._memberships.joined_rooms(user_id)
        async with trio.open_nursery() as nursery:
            for room_id in rooms:
                await slots.acquire()
                nursery.start_soon(self._show_in, room_id, user_id, slots)

    async def _show_in(self, room_id: RoomID, user_id: UserID, slots: trio.Semaphore) -> None:
        try:
            for _ in range(ATTEMPTS):
                if await self._replaced(room_id, user_id):
                    return
        except MatrixError as error:
            log.warning("the profile of %s was not shown in %s: %s", user_id, room_id, error)
        finally:
            slots.release()

    async def _replaced(self, room_id: RoomID, user_id: UserID) -> bool:
        own = await self._memberships.local_membership(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            return True
        profile = await self._profiles.stored(user_id)
        content = {**shown(profile), "membership": event_types.JOIN}
        draft = Draft(
            event_types.MEMBER,
            user_id,
            content,
            user_id,
            keep_if_same=True,
            replaces=own.event_id,
        )
        try:
            await self._appender.append(room_id, [draft])
        except BadState:
            return False
        return True
