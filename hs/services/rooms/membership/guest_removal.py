"""Guests leave a room when it stops being open to guests.

Spec: client-server API, Guest Access, Server behaviour.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from hs.core.errors import MatrixError
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import EVENTS
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.auth_state import GUEST_ACCESS_KEY, DecidingReader
from hs.services.rooms.store.memberships import Memberships
from hs.storage.accounts import guests
from hs.storage.database import Database

log = logging.getLogger(__name__)

MAX_ROOMS: Final = 10_000  # waiting; the oldest is dropped


class GuestExpulsion:
    """Follows the events stream for rooms of this process and makes guests leave.

    `owns` tells which rooms are this process's; `run` is the duty that does the work.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        appender: RoomAppender,
        deciding: DecidingReader,
        memberships: Memberships,
        owns: Callable[[RoomID], bool],
    ) -> None:
        self._database = database
        self._appender = appender
        self._deciding = deciding
        self._memberships = memberships
        self._owns = owns
        self._waiting: deque[RoomID] = deque(maxlen=MAX_ROOMS)
        self._arrived = trio.Event()
        feed.subscribe(EVENTS, self._on_events)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work for ever."""
        task_status.started()
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._waiting:
                room_id = self._waiting.popleft()
                try:
                    await self.expel(room_id)
                except MatrixError as error:
                    log.warning("guests could not be made to leave %s: %s", room_id, error)

    async def expel(self, room_id: RoomID) -> None:
        """Make this server's guests leave a room that is not open to them."""
        room = await self._deciding.read(room_id, more=(GUEST_ACCESS_KEY,))
        if room is None or room.text(event_types.GUEST_ACCESS, "guest_access") == "can_join":
            return
        local = sorted((await self._memberships.present(room_id)).local)
        for user_id in await self._database.read(guests.among, local):
            await self._leave(room_id, UserID(user_id))

    async def _leave(self, room_id: RoomID, user_id: UserID) -> None:
        own = await self._memberships.local_membership(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            return
        content = {"membership": event_types.LEAVE, "reason": "Guests are not allowed any more"}
        draft = Draft(event_types.MEMBER, user_id, content, user_id, replaces=EventID(own.event_id))
        try:
            await self._appender.append(room_id, [draft])
        except MatrixError as error:
            log.warning("guest %s could not be made to leave %s: %s", user_id, room_id, error)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.type == event_types.GUEST_ACCESS and row.state_key == "":
                room_id = RoomID(row.room_id)
                if self._owns(room_id):
                    self._waiting.append(room_id)
                    self._arrived.set()
