"""Knocks on rooms that this server is not in, and the end of knocks and invites there.

A rejection is final. If no other server can be told of it, this server stores a leave event of its
own.

Spec: server-server API, Knocking upon a room, Leaving Rooms (Rejecting Invites).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio

from hs.core.errors import Forbidden, MatrixError, RemoteFault
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID, ServerName, UserID
from hs.services.federation.joining.candidates import ServerCandidates, in_time, try_in_turn
from hs.services.federation.joining.signed_templates import ExpectedMember, TemplateSigner
from hs.services.federation.joining.stripped_states import StrippedStates
from hs.services.federation.requests.membership import make_membership, send_knock, send_leave
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.receive.outside_leave import OutsideLeaves
from hs.services.rooms.receive.outside_memberships import OutsideMembership, OutsideMemberships
from hs.services.rooms.store.memberships import Memberships

KNOCK_DEADLINE_S: Final = 120.0
LEAVE_DEADLINE_S: Final = 30.0
"""Time for telling other servers of a rejection, while the client waits."""

_REJECTABLE: Final = (event_types.INVITE, event_types.KNOCK)

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class OutsideChanges:
    """Changes memberships of local users in rooms that this server is not in."""

    client: FederationClient
    candidates: ServerCandidates
    templates: TemplateSigner
    stripped: StrippedStates
    memberships: Memberships
    leaves: OutsideLeaves
    outside: OutsideMemberships

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Knock on a room. Raises: MatrixError, RemoteFault."""
        expected = ExpectedMember(room_id, user_id, content)
        with in_time(KNOCK_DEADLINE_S):
            servers = await self.candidates.of(room_id, user_id, via)
            await try_in_turn(servers, partial(self._knock_through, expected=expected))

    async def _knock_through(self, server: ServerName, expected: ExpectedMember) -> None:
        room_id = expected.room_id
        event = await self._event_through(server, expected)
        state = await send_knock(self.client, server, event)
        stripped = await self.stripped.valid_in_knock(room_id, event.rules, state)
        await self._store(event, stripped)

    async def leave(self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Reject an invite or retract a knock. Raises: Forbidden."""
        own = await self.memberships.look_again(room_id, user_id)
        if own is None or own.membership not in _REJECTABLE:
            raise Forbidden("You are not in this room")
        event: Event | None = None
        expected = ExpectedMember(room_id, user_id, content)
        with trio.move_on_after(LEAVE_DEADLINE_S):
            try:
                servers = await self.candidates.of(room_id, user_id, ())
                event = await try_in_turn(servers, partial(self._leave_through, expected=expected))
            except (MatrixError, RemoteFault) as fault:
                log.info("no server was told that %s rejected %s: %s", user_id, room_id, fault)
        if event is None:
            await self.leaves.leave(own, content)
        else:
            await self._store(event)

    async def _leave_through(self, server: ServerName, expected: ExpectedMember) -> Event:
        event = await self._event_through(server, expected)
        await send_leave(self.client, server, event)
        return event

    async def _event_through(self, server: ServerName, expected: ExpectedMember) -> Event:
        template = await make_membership(
            self.client, server, expected.membership, expected.room_id, expected.user_id
        )
        return self.templates.sign(server, template, expected)

    async def _store(self, event: Event, stripped_state: bytes | None = None) -> None:
        membership = OutsideMembership(event.rules.identifier, event.canonical, stripped_state)
        await self.outside.store(event.room_id, membership)
