"""Joins of rooms through servers that are in them.

Rules:

- Of several joins of one room in this process, one is under way at a time. The next one finds that
  this server is in the room, and needs no other server. It waits for TURN_S at most, so a join
  through slow servers cannot keep others out of a room.
- The owner of the room checks the response to send_join. If it is not valid, the next server is
  tried.
- The owner of the room stores the events that arrive between the join and the room.
- All attempts together have a deadline, and few rooms are received at the same time, of which each
  user gets a few.

Spec: server-server API, Joining Rooms, Restricted rooms.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.errors import Forbidden, InvalidEvent, LimitExceeded, RemoteFault
from hs.core.events.build import with_signatures
from hs.core.events.event import Event
from hs.core.ids import RoomID, ServerName, UserID
from hs.lib.fairness.shares import ShareExceeded, Shares
from hs.lib.keyed_lock import KeyedLock
from hs.services.federation.joining.candidates import ServerCandidates, in_time, try_in_turn
from hs.services.federation.joining.complexity_limit import ComplexityLimit
from hs.services.federation.joining.signed_templates import ExpectedMember, TemplateSigner
from hs.services.federation.requests.membership import SentJoin, make_membership, send_join
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.membership.member_events import AUTHORISER
from hs.services.rooms.receive.event_receiver import PduOutcome, RoomReceiver
from hs.services.rooms.store.memberships import Memberships

DEADLINE_S: Final = 240.0
TURN_S: Final = 20.0
ROOMS_AT_ONCE: Final = 16
ROOMS_OF_USER: Final = 3
MAX_WAITING: Final = 100
RETRY_MS: Final = 10_000


@attrs.frozen(eq=False, kw_only=True)
class RemoteJoins:
    """Joins rooms through other servers."""

    client: FederationClient
    candidates: ServerCandidates
    templates: TemplateSigner
    memberships: Memberships
    receiver: RoomReceiver
    limit: ComplexityLimit
    locks: KeyedLock[RoomID] = attrs.Factory(KeyedLock)
    slots: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(ROOMS_AT_ONCE))
    shares: Shares[UserID] = attrs.field(
        factory=lambda: Shares(running=ROOMS_OF_USER, waiting=MAX_WAITING)
    )

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> bool:
        """Join a room; return False, and do nothing, if this server is in the room already.

        Raises: MatrixError, RemoteFault.
        """
        with in_time(DEADLINE_S):
            async with self._turn(room_id):
                if (await self.memberships.present(room_id)).local:
                    return False
                is_limited = await self.limit.applies_to(user_id)
                await self._join(ExpectedMember(room_id, user_id, content), via, is_limited)
        return True

    async def join_authorised(
        self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> bool:
        """Join a room that this server is in, authorised by a user of another server.

        Return False if no other server is in the room. Raises: MatrixError, RemoteFault.
        """
        present = await self.memberships.present(room_id)
        if len(present.local) == len(present.joined):
            return False
        with in_time(DEADLINE_S):
            async with self._turn(room_id):
                await self._join(ExpectedMember(room_id, user_id, content), (), False)
        return True

    async def _join(
        self, expected: ExpectedMember, via: Sequence[ServerName], is_limited: bool
    ) -> None:
        servers = await self.candidates.of(expected.room_id, expected.user_id, via)
        await try_in_turn(servers, partial(self._join_through, expected, is_limited))

    @asynccontextmanager
    async def _turn(self, room_id: RoomID) -> AsyncIterator[None]:
        """Wait for another join of the room, but not for long."""
        async with AsyncExitStack() as stack:
            with trio.move_on_after(TURN_S):
                await stack.enter_async_context(self.locks.hold(room_id))
            yield

    @asynccontextmanager
    async def _receiving(self, user_id: UserID) -> AsyncIterator[None]:
        """Wait until the user may receive a room. Raises: LimitExceeded."""
        try:
            async with self.shares.hold(user_id), self.slots:
                yield
        except ShareExceeded:
            raise LimitExceeded("Too many joins at once", retry_after_ms=RETRY_MS) from None

    async def _join_through(
        self, expected: ExpectedMember, is_limited: bool, server: ServerName
    ) -> None:
        room_id, user_id = expected.room_id, expected.user_id
        if is_limited:
            await self.limit.check_before(server, room_id)
        template = await make_membership(self.client, server, "join", room_id, user_id)
        event = self.templates.sign(server, template, expected)
        await self.receiver.expect_room(room_id, event.rules.identifier)
        async with self._receiving(user_id):
            await self._receive(server, event, is_limited)

    async def _receive(self, server: ServerName, event: Event, is_limited: bool) -> None:
        """Send a join, and store the room in the response."""
        room_id, user_id = event.room_id, event.sender
        sent = await send_join(self.client, server, event)
        if is_limited:
            await self.limit.check_state(server, room_id, user_id, len(sent.state))
        if AUTHORISER in event.content:
            event = _with_their_signatures(server, event, sent)
        try:
            result = await self.receiver.seed_room(
                room_id,
                event.rules.identifier,
                list(sent.state),
                list(sent.auth_chain),
                event.canonical,
            )
        except Forbidden as refusal:
            raise RemoteFault(
                server, f"its response to send_join is not valid: {refusal.message}", retry=False
            ) from refusal
        verdict = result.verdicts[0]
        if verdict.outcome not in (PduOutcome.ACCEPTED, PduOutcome.KNOWN):
            reason = f"the state that it sent does not allow the join: {verdict.reason}"
            raise RemoteFault(server, reason, retry=False)


def _with_their_signatures(server: ServerName, event: Event, sent: SentJoin) -> Event:
    """Return the join with the signature of the server that authorises it."""
    try:
        pdu = orjson.loads(sent.event)
        signatures = dict(pdu["signatures"]) if isinstance(pdu, dict) else None
        if signatures is None or not all(isinstance(each, dict) for each in signatures.values()):
            raise RemoteFault(server, "it did not return the join that it authorised", retry=False)
        own = event.pdu["signatures"]
        return with_signatures(event, {**signatures, **own})
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, InvalidEvent) as fault:
        raise RemoteFault(
            server, f"the join that it returned is malformed: {fault}", retry=False
        ) from None
