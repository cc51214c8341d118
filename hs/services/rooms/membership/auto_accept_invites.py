"""Joins users to the rooms that they are invited to, where the administrator says so."""

import logging
from collections import deque
from typing import Any, Final, Protocol

import attrs
import orjson
import trio

from hs.core.errors import MatrixError, RemoteFault
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID, server_of
from hs.core.requester import Requester
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import EVENTS
from hs.services.rooms.membership.membership import JoinRequest
from hs.services.rooms.membership.room_succession import OwnData
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.retention import AutoAcceptSettings

MAX_WAITING: Final = 10_000  # the oldest is dropped: that user has to accept it
ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 1.0
_DIRECT: Final = "m.direct"

log = logging.getLogger(__name__)


class Joining(Protocol):
    """Joins users to rooms."""

    async def join(self, requester: Requester, room_id: RoomID, asked: JoinRequest) -> RoomID:
        """Join the requester."""
        ...


@attrs.frozen
class _Invite:
    user_id: UserID
    sender: UserID
    room_id: RoomID
    event_id: EventID


class AutoAccept:
    """Follows invites; `run` is the duty that does the work."""

    def __init__(
        self,
        settings: AutoAcceptSettings,
        feed: Feed,
        events: EventStore,
        memberships: Memberships,
        joining: Joining,
        own_data: OwnData,
    ) -> None:
        self._settings = settings
        self._events = events
        self._memberships = memberships
        self._joining = joining
        self._own_data = own_data
        self._waiting: deque[_Invite] = deque(maxlen=MAX_WAITING)
        self._arrived = trio.Event()
        feed.subscribe(EVENTS, self._on_events)

    async def run(self) -> None:
        """Work for ever."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            await self.accept_waiting()

    async def accept_waiting(self) -> None:
        """Accept what came."""
        while self._waiting:
            invite = self._waiting.popleft()
            stored = await self._events.get_one(invite.event_id)
            is_direct = stored is not None and stored.event.content.get("is_direct") is True
            if is_direct or not self._settings.only_for_direct_messages:
                await self._accept(invite, is_direct=is_direct)

    async def _accept(self, invite: _Invite, *, is_direct: bool) -> None:
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            own = await self._memberships.local_membership(invite.room_id, invite.user_id)
            if own is None or own.membership != event_types.INVITE:
                return
            requester = Requester(invite.user_id, unlimited=True)
            via = (server_of(invite.sender),)
            try:
                await self._joining.join(requester, invite.room_id, JoinRequest(via=via))
                if is_direct:
                    await self._mark_direct(invite)
                return
            except (MatrixError, RemoteFault) as error:
                log.warning(
                    "%s was not joined to %s (attempt %d): %s",
                    invite.user_id, invite.room_id, attempt, error,
                )  # fmt: skip
            if attempt < ATTEMPTS:
                await trio.sleep(pause_s)
                pause_s *= 2

    async def _mark_direct(self, invite: _Invite) -> None:
        """Note the room among the user's direct chats, as a client does on accepting."""
        content = await self._own_data.content(invite.user_id, None, _DIRECT)
        chats: dict[str, Any] = orjson.loads(content) if content is not None else {}
        rooms = chats.get(invite.sender)
        known = rooms if isinstance(rooms, list) else []
        if invite.room_id not in known:
            chats[invite.sender] = [*known, invite.room_id]
            await self._own_data.put(invite.user_id, None, _DIRECT, chats)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.membership != event_types.INVITE or row.state_key is None:
                continue
            is_local = self._memberships.is_local
            if not is_local(row.state_key) or row.rejected or row.soft_failed:
                continue
            if self._settings.only_from_local_users and not is_local(row.sender):
                continue
            self._waiting.append(
                _Invite(
                    UserID(row.state_key),
                    UserID(row.sender),
                    RoomID(row.room_id),
                    EventID(row.event_id),
                )
            )
            self._arrived.set()
