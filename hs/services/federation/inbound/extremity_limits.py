"""Limits on the forward extremities of rooms, kept by dummy events that cite many of them.

Each event that arrives is resolved with the states at the forward extremities that count, so a
server that forks a room makes it slower. A dummy event has no content and is not
shown to clients. It is not sent to other servers: each has to limit its own extremities, and the
dummy events of all servers would be new ones. Others get it when a later event cites it.
"""

import logging
from typing import Final, Protocol

import attrs
import trio

from hs.core.errors import MatrixError, Unavailable
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.auth_state import AuthStateReader
from hs.services.rooms.store.memberships import Memberships

log = logging.getLogger(__name__)

PAUSE_S: Final = 1.0
"""Pause before dummy events are sent, so that all events of a transaction have arrived."""

RETRY_S: Final = 3600.0
MAX_EVENTS: Final = 20
MAX_CANDIDATES: Final = 20
MAX_FAILED_ROOMS: Final = 10_000


class LoadedRooms(Protocol):
    """The rooms in the memory of their owner."""

    def extremity_count(self, room_id: RoomID) -> int:
        """Return the number of forward extremities of a room; 0 if it is not in memory."""
        ...


@attrs.define(eq=False)
class ExtremityLimits:
    """Sends dummy events to rooms with more than `threshold` forward extremities."""

    _rooms: LoadedRooms
    _appender: RoomAppender
    _memberships: Memberships
    _auth_states: AuthStateReader
    _threshold: int
    _noted: dict[RoomID, None] = attrs.Factory(dict)
    _failed_s: dict[RoomID, float] = attrs.Factory(dict)
    _changed: trio.Event = attrs.Factory(trio.Event)

    def note(self, room_id: RoomID) -> None:
        """Queue a room for dummy events, if it has too many forward extremities."""
        if self._rooms.extremity_count(room_id) <= self._threshold:
            return
        if trio.current_time() < self._failed_s.get(room_id, 0) + RETRY_S:
            return
        self._noted[room_id] = None
        self._changed.set()

    async def run(self) -> None:
        """Send dummy events to the queued rooms, until cancelled."""
        while True:
            await self._changed.wait()
            await trio.sleep(PAUSE_S)
            self._changed = trio.Event()
            rooms, self._noted = self._noted, {}
            for room_id in rooms:
                await self.limit(room_id)

    async def limit(self, room_id: RoomID) -> None:
        """Send dummy events to a room until it has few enough forward extremities."""
        try:
            for _ in range(MAX_EVENTS):
                if self._rooms.extremity_count(room_id) <= self._threshold:
                    return
                sender = await self._sender(room_id)
                if sender is None:
                    self._fail(room_id, "no local user may send events")
                    return
                draft = Draft(event_types.DUMMY, sender, {})
                await self._appender.append(room_id, [draft])
        except (MatrixError, Unavailable) as fault:
            self._fail(room_id, str(fault))

    def _fail(self, room_id: RoomID, reason: str) -> None:
        log.info("could not limit the forward extremities of room %s: %s", room_id, reason)
        self._failed_s[room_id] = trio.current_time()
        if len(self._failed_s) > MAX_FAILED_ROOMS:
            del self._failed_s[next(iter(self._failed_s))]

    async def _sender(self, room_id: RoomID) -> UserID | None:
        """Return a joined local user who may send a dummy event."""
        local = sorted((await self._memberships.present(room_id)).local)[:MAX_CANDIDATES]
        state = await self._auth_states.read(room_id)
        if state is None:
            return None
        for user_id in local:
            if state.power.may_send(user_id, event_types.DUMMY, None):
                return user_id
        return None
