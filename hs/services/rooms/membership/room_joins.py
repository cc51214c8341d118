"""Joins and knocks of clients, in rooms of this server and through other servers.

The auth rules are applied where events are appended. This module checks what comes before: rate
limits, guest access, account restrictions and who authorizes restricted joins. A refusal from the
memory of this process is repeated once the process is up to date (`RefusalRechecks`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, GuestForbidden, UnableToGrantJoin
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID, parse_user_id, server_of
from hs.core.requester import Requester
from hs.repl.freshness import RefusalRechecks
from hs.services.accounts.limits.account_restrictions import check_may_act, may_act
from hs.services.rooms.membership.member_events import (
    AUTHORISER,
    MemberEvents,
    member_content,
    own_draft,
    third_party_event,
)
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.membership.room_succession import RoomSuccession
from hs.services.rooms.store.auth_state import AuthState, AuthStateReader
from hs.services.rooms.store.memberships import LocalMembership, Memberships


@attrs.frozen
class JoinRequest:
    """A client's request to join or knock; `content` is merged into the member event.

    `origin_server_ts` is set for application services only.
    """

    reason: str | None = None
    via: Sequence[ServerName] = ()
    third_party_signed: JsonObject | None = None
    content: Mapping[str, Any] = attrs.Factory(dict)
    origin_server_ts: int | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether a join would change nothing for a user who is joined already."""
        return self.reason is None and self.third_party_signed is None and not self.content


@attrs.frozen(eq=False, kw_only=True)
class RoomJoins:
    """Joins users to rooms, and lets them knock."""

    events: MemberEvents
    auth_states: AuthStateReader
    memberships: Memberships
    restricted: RestrictedJoins
    remote: RemoteRooms
    succession: RoomSuccession
    limits: MembershipLimits
    policy: MemberPolicy
    rechecks: RefusalRechecks

    async def join(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> EventID:
        """Join the requester to a room and return the member event.

        Do nothing if they are joined already and the request changes nothing.
        Raises: Forbidden, GuestForbidden, LimitExceeded, UnableToGrantJoin, UnableToAuthoriseJoin.
        """
        if request.changes_nothing:
            # If the rooms are not in memory, `_join` reads them.
            rooms = self.memberships.rooms_of_nowait(requester.user_id)
            if rooms is not None and _is_join(rooms.get(room_id)):
                own = await self.events.own_membership(room_id, requester.user_id)
                if own is not None and _is_join(own):
                    return own.event_id
        join = partial(self._join, room_id=room_id, request=request)
        return await self.rechecks.run(requester, join)

    async def knock(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> None:
        """Knock on a room. Raises: Forbidden."""
        knock = partial(self._knock, room_id=room_id, request=request)
        await self.rechecks.run(requester, knock)

    async def _knock(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> None:
        check_may_act(requester)
        await self.policy.check_own(request.content)
        content = await self.events.with_profile(
            requester.user_id, self._requested_content(event_types.KNOCK, request)
        )
        if await self.events.read_local_room(room_id) is None:
            await self.remote.knock(requester.user_id, room_id, request.via, content)
        else:
            await self.events.append(room_id, own_draft(requester.user_id, content))

    async def _join(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> EventID:
        user_id = requester.user_id
        local_room = await self.events.read_local_room(room_id, user_id)
        await self.policy.check_own(request.content)
        content = await self.events.with_profile(
            user_id, self._requested_content(event_types.JOIN, request)
        )
        own = None
        if local_room is not None and local_room.membership(user_id) == event_types.JOIN:
            own = await self.events.own_membership(room_id, user_id)
        is_joined = own is not None and own.membership == event_types.JOIN
        if not (is_joined and request.changes_nothing):
            # A joined user changes their profile in the room, which needs the same permission.
            await self._check_may_join(requester, room_id)
        if local_room is None:
            self.limits.check_remote_join(requester, room_id)
            if await self._join_remote(requester, room_id, request, content):
                return await self._finish_remote_join(user_id, room_id)
            # Another join has brought this server into the room meanwhile.
            local_room = await self.events.read_local_room(room_id, user_id)
            if local_room is None:
                raise Forbidden("You are not in this room")
        if own is not None and is_joined and request.changes_nothing:
            return own.event_id
        _check_guest(requester, local_room)
        if not is_joined:
            self.limits.check_join(requester, room_id)
        drafts = []
        if request.third_party_signed is not None:
            signed = request.third_party_signed
            invite = await self.events.accept_third_party_invite(room_id, user_id, signed)
            if self.memberships.is_local(invite.sender):
                drafts.append(invite)
            else:
                await self.remote.invite_for(room_id, invite)
        else:
            try:
                authoriser = await self.restricted.authoriser_for(user_id, local_room)
            except UnableToGrantJoin:
                if not await self.remote.join_authorised(user_id, room_id, content):
                    raise
                return await self._finish_remote_join(user_id, room_id)
            if authoriser is not None:
                content[AUTHORISER] = authoriser
        event_id = await self.events.append(
            room_id, *drafts, own_draft(user_id, content, request.origin_server_ts)
        )
        if not is_joined:
            await self.succession.follow(user_id, local_room.create)
        return event_id

    async def _join_remote(
        self, requester: Requester, room_id: RoomID, request: JoinRequest, content: JsonObject
    ) -> bool:
        """Join through another server; return False if this server is in the room by now."""
        user_id, via, signed = requester.user_id, request.via, request.third_party_signed
        if signed is not None:
            # The server of the inviter turns the third-party invite into an invite.
            event = third_party_event(room_id, parse_user_id(signed.get("sender")), user_id, signed)
            server = server_of(event["sender"])
            await self.remote.exchange_third_party_invite(server, room_id, event)
            via = (server, *via)
        if requester.is_guest and not await self.remote.allows_guests(user_id, room_id, via):
            raise GuestForbidden("Guests may not join this room")
        return await self.remote.join(user_id, room_id, via, content)

    async def _finish_remote_join(self, user_id: UserID, room_id: RoomID) -> EventID:
        auth_state = await self.auth_states.read(room_id)
        if auth_state is not None:
            await self.succession.follow(user_id, auth_state.create)
        joined = await self.memberships.local_membership(room_id, user_id)
        return EventID("") if joined is None else joined.event_id

    async def _check_may_join(self, requester: Requester, room_id: RoomID) -> None:
        """Reject requesters with restrictions, unless the server itself has invited them."""
        if may_act(requester):
            return
        own = await self.memberships.local_membership(room_id, requester.user_id)
        if not self.policy.is_from_server(own):
            check_may_act(requester)

    def _requested_content(self, membership: str, request: JoinRequest) -> JsonObject:
        return member_content(membership, request.reason, self.policy.own_content(request.content))


def _is_join(own: LocalMembership | None) -> bool:
    return own is not None and own.membership == event_types.JOIN


def _check_guest(requester: Requester, room: AuthState) -> None:
    if not requester.is_guest:
        return
    if room.text(event_types.GUEST_ACCESS, "guest_access") != "can_join":
        raise GuestForbidden("Guests may not join this room")
