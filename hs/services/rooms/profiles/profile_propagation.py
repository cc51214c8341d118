"""Showing changed profiles in rooms: a new member event in each room that the user is joined to.

One process of all does it, after the client has its answer. Who is to be shown is in a table,
written with the change and deleted when all rooms show it: who is killed in between leaves a user
whose rooms are gone through again, and those that show the profile already get no event.

Whoever leaves a room meanwhile stays out: the new event only ever replaces the membership that was
looked at. The profile is read after that, so that whatever is shown last is the latest.
"""

import logging
from typing import Any, Final

import attrs
import trio

from hs.core.errors import BadState, MatrixError, Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import CACHES, CacheRow
from hs.repl.feed import Batch, Feed
from hs.services.accounts.profiles.profiles import PROFILES
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.profiles.member_profiles import member_profile
from hs.storage.accounts import profiles
from hs.storage.database import Database, Tx
from hs.storage.rooms import memberships

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
AT_ONCE: Final = 4  # rooms of one user
PAGE: Final = 100
RETRY_S: Final = 30.0
"""What could not be shown is tried again after this; a room's writer may have been away."""

LOOK_AGAIN_S: Final = 60.0
"""Announcements may be lost: with a process that is killed between its commit and them."""


@attrs.define(eq=False)
class RoomProfiles:
    """Changes the member events of users whose profiles have changed; `run` is the duty."""

    _database: Database
    _feed: Feed
    _appender: RoomAppender
    _announced: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(CACHES, self._on_caches)

    async def run(self) -> None:
        """Work for ever; what a process before this one left is done first."""
        later: set[int] = set()
        again_at = trio.current_time()
        while True:
            self._announced = trio.Event()
            if trio.current_time() >= again_at:
                later, again_at = set(), trio.current_time() + RETRY_S
            later |= await self.show_all(later)
            pause_s = again_at - trio.current_time() if later else LOOK_AGAIN_S
            with trio.move_on_after(max(pause_s, 0.0)):
                await self._announced.wait()

    async def show_all(self, but: set[int]) -> set[int]:
        """Show all changes that are to be shown but these; give those that could not be."""
        after, failed = 0, set()
        while page := await self._database.read(profiles.list_changes, after, PAGE):
            for change in page:
                if change.change_id in but:
                    continue
                if await self._show(change.user_id):
                    await self._database.write(profiles.delete_change, change)
                else:
                    failed.add(change.change_id)
            after = page[-1].change_id
        return failed

    async def _show(self, user_id: UserID) -> bool:
        """Put a user's profile into all of their member events; False: not everywhere yet."""
        slots = trio.Semaphore(AT_ONCE)
        failed: list[RoomID] = []
        # The tables know of rooms joined through other processes just before.
        rooms = await self._database.read(memberships.joined_rooms, user_id)
        async with trio.open_nursery() as nursery:
            for room_id in rooms:
                await slots.acquire()
                nursery.start_soon(self._show_in, RoomID(room_id), user_id, slots, failed)
        return not failed

    async def _show_in(
        self, room_id: RoomID, user_id: UserID, slots: trio.Semaphore, failed: list[RoomID]
    ) -> None:
        try:
            for _ in range(ATTEMPTS):
                if await self._replaced(room_id, user_id):
                    return
            failed.append(room_id)
        except MatrixError as error:
            log.warning("the profile of %s was not shown in %s: %s", user_id, room_id, error)
            if error.status >= 500:
                failed.append(room_id)
        except Unavailable:
            raise
        except Exception:
            # A room that breaks something must not keep other rooms and users from being shown.
            log.exception("the profile of %s could not be shown in %s", user_id, room_id)
            failed.append(room_id)
        finally:
            slots.release()

    async def _replaced(self, room_id: RoomID, user_id: UserID) -> bool:
        join_event, profile = await self._database.read(_of_member, room_id, user_id)
        if join_event is None or profile is None:
            return True
        content = {**member_profile(profile), "membership": event_types.JOIN}
        draft = Draft(
            event_types.MEMBER,
            user_id,
            content,
            user_id,
            keep_if_same=True,
            replaces=EventID(join_event),
        )
        try:
            await self._appender.append(room_id, [draft])
        except BadState:
            return False
        return True

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset or any(row.cache == PROFILES for _, row in batch.rows):
            self._announced.set()


async def _of_member(
    tx: Tx, room_id: str, user_id: str
) -> tuple[str | None, dict[str, Any] | None]:
    join_event = await memberships.join_event(tx, room_id, user_id)
    return join_event, await profiles.get_profile(tx, user_id)
