"""Removes guests from rooms that no longer allow guests.

Spec: client-server API, Guest Access, Server behaviour.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import trio

from hs.core.errors import MatrixError, Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import EVENTS, EventRow
from hs.repl.entry_retries import EntryRetries
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.auth_state import GUEST_ACCESS_KEY, AuthStateReader
from hs.services.rooms.store.memberships import Memberships
from hs.storage.accounts import guests
from hs.storage.database import Database

log = logging.getLogger(__name__)

MAX_ROOMS: Final = 10_000
"""Rooms that wait; the oldest is dropped, and its guests stay."""


class GuestRemovalDuty:
    """Follows guest access in the rooms that `owns` accepts; `run` is the duty that removes guests.

    `owns` tells whether this process owns a room.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        appender: RoomAppender,
        deciding: AuthStateReader,
        memberships: Memberships,
        owns: Callable[[RoomID], bool],
    ) -> None:
        self._database = database
        self._appender = appender
        self._deciding = deciding
        self._memberships = memberships
        self._owns = owns
        self._changed_rooms: FeedQueue[RoomID] = FeedQueue(
            "guest access", MAX_ROOMS, WhenFull.DROP_OLDEST
        )
        self._changed_rooms.follow(feed, EVENTS, self._rooms_changed_in, Interest.CHANGES)
        self._retries: EntryRetries[RoomID] = EntryRetries()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remove guests for ever."""
        task_status.started()
        await self._changed_rooms.serve(self._expel_all)

    async def remove_guests(self, room_id: RoomID) -> None:
        """Remove the guests of this server from a room, unless it allows guests."""
        room = await self._deciding.read(room_id, more=(GUEST_ACCESS_KEY,))
        if room is None or room.text(event_types.GUEST_ACCESS, "guest_access") == "can_join":
            return
        local = sorted((await self._memberships.present(room_id)).local)
        for user_id in await self._database.read(guests.guests_among, local):
            await self._leave(room_id, UserID(user_id))

    async def _expel_all(self, room_ids: list[RoomID]) -> None:
        for room_id in room_ids:
            try:
                await self.remove_guests(room_id)
                self._retries.succeeded()
            except MatrixError as error:
                log.warning("guests were not removed from %s: %s", room_id, error)
            except Unavailable as error:
                if self._retries.may_retry(room_id, error):
                    raise
                log.warning("guests were not removed from %s, skipping it: %s", room_id, error)
            except Exception:
                # A room that breaks something must not keep guests in other rooms.
                log.exception("guests were not removed from %s", room_id)

    async def _leave(self, room_id: RoomID, user_id: UserID) -> None:
        own = await self._memberships.local_membership(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            return
        content = {"membership": event_types.LEAVE, "reason": "Guests are not allowed any more"}
        draft = Draft(event_types.MEMBER, user_id, content, user_id, replaces=EventID(own.event_id))
        try:
            await self._appender.append(room_id, [draft])
        except MatrixError as error:
            log.warning("guest %s was not removed from %s: %s", user_id, room_id, error)

    def _rooms_changed_in(self, batch: Batch[EventRow]) -> Iterator[RoomID]:
        for _, row in batch.rows:
            if row.type == event_types.GUEST_ACCESS and row.state_key == "":
                room_id = RoomID(row.room_id)
                if self._owns(room_id):
                    yield room_id
