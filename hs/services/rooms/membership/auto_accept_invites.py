"""Joins users to the rooms that they are invited to, where the settings say so.

An invite is accepted when the user has joined, and has the room among the direct chats if it was an
invite to one. If only the join succeeded, the next attempt does the rest.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.errors import MatrixError, RemoteFault, Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID, server_of
from hs.core.requester import Requester
from hs.core.streams import EVENTS, EventRow
from hs.repl.entry_retries import EntryRetries
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.accounts.account_data.account_data import DIRECT, AccountDataService
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.retention import AutoAcceptSettings

MAX_WAITING: Final = 10_000
"""Invites that wait; the oldest is dropped, and its user has to accept it."""

ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 1.0

log = logging.getLogger(__name__)


@attrs.frozen
class _Invite:
    user_id: UserID
    sender: UserID
    room_id: RoomID
    event_id: EventID


class AutoAcceptDuty:
    """Follows the invites of local users; `run` is the duty that accepts them."""

    def __init__(
        self,
        settings: AutoAcceptSettings,
        feed: Feed,
        events: EventStore,
        memberships: Memberships,
        joins: RoomJoins,
        own_data: AccountDataService,
    ) -> None:
        self._settings = settings
        self._events = events
        self._memberships = memberships
        self._joins = joins
        self._own_data = own_data
        self._invites: FeedQueue[_Invite] = FeedQueue("invites", MAX_WAITING, WhenFull.DROP_OLDEST)
        self._invites.follow(feed, EVENTS, self._invites_in, Interest.CHANGES)
        self._retries: EntryRetries[_Invite] = EntryRetries()
        # The last invite for which a join was tried; if it failed, it may have had its effect.
        self._tried: _Invite | None = None

    async def run(self) -> None:
        """Accept invites for ever."""
        await self._invites.serve(self._accept_all)

    async def accept_waiting(self) -> None:
        """Accept all invites that wait."""
        await self._invites.serve_waiting(self._accept_all)

    async def _accept_all(self, invites: list[_Invite]) -> None:
        for invite in invites:
            try:
                await self._accept_if_wanted(invite)
                self._retries.succeeded()
            except Unavailable as error:
                if self._retries.may_retry(invite, error):
                    raise
                log.warning(
                    "invite of %s to %s was not accepted, skipping it: %s",
                    invite.user_id,
                    invite.room_id,
                    error,
                )
            except Exception:
                # An invite that breaks something must not keep others from being accepted.
                log.exception(
                    "invite of %s to %s was not accepted, skipping it",
                    invite.user_id,
                    invite.room_id,
                )

    async def _accept_if_wanted(self, invite: _Invite) -> None:
        stored = await self._events.get_one(invite.event_id)
        is_direct = stored is not None and stored.event.content.get("is_direct") is True
        if is_direct or not self._settings.only_for_direct_messages:
            await self._accept(invite, is_direct=is_direct)

    async def _accept(self, invite: _Invite, *, is_direct: bool) -> None:
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if await self._join(invite) and is_direct:
                    await self._mark_direct(invite)
                return
            except (MatrixError, RemoteFault) as error:
                log.warning(
                    "invite of %s to %s was not accepted (attempt %d of %d): %s",
                    invite.user_id, invite.room_id, attempt, ATTEMPTS, error,
                )  # fmt: skip
            if attempt < ATTEMPTS:
                await trio.sleep(pause_s)
                pause_s *= 2

    async def _join(self, invite: _Invite) -> bool:
        """Join the invited user; return whether the membership comes from this invite."""
        own = await self._memberships.local_membership(invite.room_id, invite.user_id)
        membership = None if own is None else own.membership
        if membership == event_types.JOIN:
            return invite == self._tried
        if membership != event_types.INVITE:
            return False
        self._tried = invite
        requester = Requester(invite.user_id, is_rate_limit_exempt=True)
        via = (server_of(invite.sender),)
        await self._joins.join(requester, invite.room_id, JoinRequest(via=via))
        return True

    async def _mark_direct(self, invite: _Invite) -> None:
        """Add the room to the user's direct chats, as a client does when it accepts an invite."""
        content = await self._own_data.stored(invite.user_id, None, DIRECT)
        chats: dict[str, Any] = orjson.loads(content) if content is not None else {}
        rooms = chats.get(invite.sender)
        known = rooms if isinstance(rooms, list) else []
        if invite.room_id not in known:
            chats[invite.sender] = [*known, invite.room_id]
            await self._own_data.put(invite.user_id, None, DIRECT, chats)

    def _invites_in(self, batch: Batch[EventRow]) -> Iterator[_Invite]:
        is_local = self._memberships.is_local
        for _, row in batch.rows:
            if row.membership != event_types.INVITE or row.state_key is None:
                continue
            if not is_local(row.state_key) or row.rejected or row.soft_failed:
                continue
            if self._settings.only_from_local_users and not is_local(row.sender):
                continue
            yield _Invite(
                UserID(row.state_key),
                UserID(row.sender),
                RoomID(row.room_id),
                EventID(row.event_id),
            )
