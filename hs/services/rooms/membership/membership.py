"""Leave, invite, kick, ban and forget for clients, and member events that clients send.

The auth rules are applied where events are appended. This module checks what comes before: rate
limits, account restrictions, and the content of member events.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, NotFound, Unknown
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID, parse_user_id
from hs.core.requester import Requester
from hs.core.streams import CacheRow
from hs.repl.freshness import RefusalRechecks
from hs.repl.memory_writer import MemoryWriter
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.rooms.append.drafts import Draft, TransactionKey
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_events import (
    MemberEvents,
    member_content,
    member_draft,
    own_content,
    own_draft,
)
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from hs.services.rooms.profiles.member_profiles import PROFILE_FIELDS
from hs.services.rooms.store.auth_state import AuthStateReader
from hs.services.rooms.store.memberships import CACHE_NAME, Memberships
from hs.storage.database import Database
from hs.storage.rooms import rooms

_PRESENT_MEMBERSHIPS: Final = (event_types.JOIN, event_types.INVITE, event_types.KNOCK)


@attrs.frozen(eq=False, kw_only=True)
class RoomMembership:
    """Changes memberships for clients, except by joining and knocking."""

    joins: RoomJoins
    events: MemberEvents
    auth_states: AuthStateReader
    memberships: Memberships
    profiles: Profiles
    remote: RemoteRooms
    limits: MembershipLimits
    invites: InvitePermissions
    database: Database
    cache_drops: MemoryWriter[CacheRow]
    policy: MemberPolicy
    rechecks: RefusalRechecks

    async def leave(self, requester: Requester, room_id: RoomID, reason: str | None = None) -> None:
        """Leave a room, reject an invite or retract a knock.

        Do nothing if the user has left already.
        Raises: NotFound, for an unknown room; Forbidden.
        """
        leave = partial(self._leave, room_id=room_id, reason=reason)
        await self.rechecks.run(requester, leave)

    async def _leave(self, requester: Requester, room_id: RoomID, reason: str | None) -> None:
        user_id = requester.user_id
        own = await self.events.own_membership(room_id, user_id)
        if own is not None and own.membership == event_types.LEAVE:
            return
        self.policy.check_may_reject(own)
        content = member_content(event_types.LEAVE, reason)
        local_room = await self.events.read_local_room(room_id)
        if local_room is not None:
            await self.events.append(room_id, own_draft(user_id, content))
        elif own is None:
            raise NotFound("Unknown room")
        else:
            await self.remote.leave(user_id, room_id, content)

    async def invite(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None = None
    ) -> None:
        """Invite a user. Raises: Forbidden, InviteBlocked, LimitExceeded."""
        await self._invite(requester, room_id, target, member_content(event_types.INVITE, reason))

    async def kick(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Kick a user who is joined, invited or knocking. Raises: Forbidden."""
        content = member_content(event_types.LEAVE, reason, more)
        await self._remove(requester, room_id, target, content, _PRESENT_MEMBERSHIPS)

    async def ban(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Ban a user. Raises: Forbidden."""
        await self._set_membership(
            requester, room_id, target, member_content(event_types.BAN, reason, more)
        )

    async def unban(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None = None
    ) -> None:
        """Unban a user. Raises: Forbidden."""
        content = member_content(event_types.LEAVE, reason)
        await self._remove(requester, room_id, target, content, (event_types.BAN,))

    async def forget(self, requester: Requester, room_id: RoomID) -> None:
        """Forget a room that the requester has left.

        Raises: Unknown, if they have not left it; NotFound, if they never were in it.
        """
        user_id = requester.user_id
        if await self.database.write(rooms.forget, user_id, room_id):
            self.cache_drops.append_nowait([CacheRow(CACHE_NAME, (user_id,))])
        elif await self.memberships.look_again(room_id, user_id) is None:
            raise NotFound("You were never in this room")
        else:
            raise Unknown("You have not left this room")

    async def set_member(
        self,
        requester: Requester,
        room_id: RoomID,
        target: str,
        content: JsonObject,
        at_ms: int | None = None,
        txn: TransactionKey | None = None,
    ) -> EventID:
        """Send a member event whose content a client has set, under the same conditions.

        Kicks, bans and leaves are idempotent by `txn`; the other changes do nothing when they are
        repeated.
        Raises: BadJson, InvalidParam, Forbidden, GuestForbidden, LimitExceeded.
        """
        user_id = parse_user_id(target)
        membership = content.get("membership")
        if not isinstance(membership, str):
            raise BadJson("membership must be a string")
        if membership == event_types.JOIN and user_id == requester.user_id:
            request = JoinRequest(content=own_content(content), origin_server_ts=at_ms)
            return await self.joins.join(requester, room_id, request)
        if membership == event_types.INVITE:
            return await self._invite(requester, room_id, user_id, content, at_ms)
        if membership == event_types.KNOCK:
            content = await self.events.with_profile(user_id, self.policy.own_content(content))
        return await self._set_membership(requester, room_id, user_id, content, at_ms, txn)

    async def _remove(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        content: JsonObject,
        from_memberships: tuple[str, ...],
    ) -> None:
        """Kick or unban a user, if the owner of the room finds one of these memberships."""
        check_may_act(requester)
        draft = Draft(
            event_types.MEMBER,
            requester.user_id,
            content,
            target,
            from_memberships=from_memberships,
        )
        await self.events.append(room_id, draft)

    async def _invite(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        content: JsonObject,
        at_ms: int | None = None,
    ) -> EventID:
        check_may_act(requester)
        self.policy.check_may_invite(requester)
        self.limits.check_invite(requester, room_id, target)
        if self.memberships.is_local(target):
            await self.invites.check(requester.user_id, target)
        without_profile = {key: content[key] for key in content if key not in PROFILE_FIELDS}
        invite_content = {
            **self.policy.invited(await self.profiles.local_profile(target)),
            **without_profile,
        }
        draft = member_draft(requester.user_id, invite_content, target, at_ms)
        if self.memberships.is_local(target):
            return await self.events.append(room_id, draft)
        self.remote.check_can_invite(target)
        await self.remote.invite(room_id, draft)
        auth_state = await self.auth_states.read(room_id, members=(target,))
        invited = (
            None if auth_state is None else auth_state.events.get((event_types.MEMBER, target))
        )
        return EventID("") if invited is None else invited.event_id

    async def _set_membership(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        content: JsonObject,
        at_ms: int | None = None,
        txn: TransactionKey | None = None,
    ) -> EventID:
        if target == requester.user_id and content.get("membership") == event_types.LEAVE:
            own = await self.events.own_membership(room_id, target)
            self.policy.check_may_reject(own)
        else:
            check_may_act(requester)
        draft = member_draft(requester.user_id, content, target, at_ms)
        return await self.events.append(room_id, attrs.evolve(draft, txn=txn))
