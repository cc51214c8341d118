"""Join, leave, invite, kick, ban and knock for clients.

The auth rules are applied where events are appended. This module checks what comes before: rate
limits, guest access, account restrictions, who authorizes restricted joins, and the content of
member events.

Rules about the memory of this process, which may be behind the process that owns the room:

- What depends on the present membership is decided by the owner (`Draft.from_memberships`), or by
  the database, as soon as the answer would be given without the owner.
- A refusal from memory is repeated once this process is up to date (`RefusalRechecks`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject, check_canonical
from hs.core.errors import (
    BadJson,
    Forbidden,
    GuestForbidden,
    NotFound,
    UnableToGrantJoin,
    Unknown,
)
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID, parse_user_id, server_of
from hs.core.requester import Requester
from hs.core.streams import CacheRow
from hs.repl.freshness import RefusalRechecks
from hs.repl.memory_writer import MemoryWriter
from hs.services.accounts.limits.account_restrictions import check_may_act, may_act
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft, TransactionKey
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.membership.room_succession import RoomSuccession
from hs.services.rooms.profiles.member_profiles import PROFILE_FIELDS, member_profile
from hs.services.rooms.store.auth_state import GUEST_ACCESS_KEY, AuthState, AuthStateReader
from hs.services.rooms.store.memberships import CACHE_NAME, LocalMembership, Memberships
from hs.storage.database import Database
from hs.storage.rooms import rooms

AUTHORISER: Final = "join_authorised_via_users_server"

_RESERVED_FIELDS: Final = frozenset(
    {"membership", AUTHORISER, "third_party_invite", "third_party_signed"}
)
_PRESENT_MEMBERSHIPS: Final = (event_types.JOIN, event_types.INVITE, event_types.KNOCK)


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
class RoomMembership:
    """Changes memberships for clients; `owns` returns whether this process owns a room."""

    appender: RoomAppender
    auth_states: AuthStateReader
    memberships: Memberships
    restricted: RestrictedJoins
    profiles: Profiles
    remote: RemoteRooms
    succession: RoomSuccession
    limits: MembershipLimits
    invites: InvitePermissions
    database: Database
    cache_drops: MemoryWriter[CacheRow]
    policy: MemberPolicy
    rechecks: RefusalRechecks
    owns: Callable[[RoomID], bool]

    async def join(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> RoomID:
        """Join the requester to a room; do nothing if they are joined already.

        Raises: Forbidden, GuestForbidden, LimitExceeded, UnableToGrantJoin, UnableToAuthoriseJoin.
        """
        if request.changes_nothing:
            # If the rooms are not in memory, `_join` reads them.
            rooms = self.memberships.rooms_of_nowait(requester.user_id)
            own = None if rooms is None else rooms.get(room_id)
            if _is_join(own) and _is_join(await self._own_membership(room_id, requester.user_id)):
                return room_id
        await self._join(requester, room_id, request)
        return room_id

    async def knock(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> RoomID:
        """Knock on a room. Raises: Forbidden."""
        knock = partial(self._knock, room_id=room_id, request=request)
        return await self.rechecks.run(requester, knock)

    async def _knock(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> RoomID:
        check_may_act(requester)
        await self.policy.check_own(request.content)
        content = await self._with_profile(
            requester.user_id, self._requested_content(event_types.KNOCK, request)
        )
        if await self._read_local_room(room_id) is None:
            await self.remote.knock(requester.user_id, room_id, request.via, content)
        else:
            await self._append(room_id, _own(requester.user_id, content))
        return room_id

    async def leave(self, requester: Requester, room_id: RoomID, reason: str | None = None) -> None:
        """Leave a room, reject an invite or retract a knock.

        Do nothing if the user has left already.
        Raises: NotFound, for an unknown room; Forbidden.
        """
        leave = partial(self._leave, room_id=room_id, reason=reason)
        await self.rechecks.run(requester, leave)

    async def _leave(self, requester: Requester, room_id: RoomID, reason: str | None) -> None:
        user_id = requester.user_id
        own = await self._own_membership(room_id, user_id)
        if own is not None and own.membership == event_types.LEAVE:
            return
        self.policy.check_may_reject(own)
        content = _content(event_types.LEAVE, reason)
        local_room = await self._read_local_room(room_id)
        if local_room is not None:
            await self._append(room_id, _own(user_id, content))
        elif own is None:
            raise NotFound("Unknown room")
        else:
            await self.remote.leave(user_id, room_id, content)

    async def invite(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None = None
    ) -> None:
        """Invite a user. Raises: Forbidden, InviteBlocked, LimitExceeded."""
        await self._invite(requester, room_id, target, _content(event_types.INVITE, reason))

    async def kick(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Kick a user who is joined, invited or knocking. Raises: Forbidden."""
        content = _content(event_types.LEAVE, reason, more)
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
            requester, room_id, target, _content(event_types.BAN, reason, more)
        )

    async def unban(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None = None
    ) -> None:
        """Unban a user. Raises: Forbidden."""
        content = _content(event_types.LEAVE, reason)
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
            return await self._join(requester, room_id, request)
        if membership == event_types.INVITE:
            return await self._invite(requester, room_id, user_id, content, at_ms)
        if membership == event_types.KNOCK:
            content = await self._with_profile(user_id, self.policy.own_content(content))
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
        await self._append(room_id, draft)

    async def _own_membership(self, room_id: RoomID, user_id: UserID) -> LocalMembership | None:
        """Return a local user's membership as the owner of the room has committed it."""
        if self.owns(room_id):
            return await self.memberships.local_membership(room_id, user_id)
        return await self.memberships.look_again(room_id, user_id)

    async def _join(self, requester: Requester, room_id: RoomID, request: JoinRequest) -> EventID:
        join = partial(self._join_once, room_id=room_id, request=request)
        return await self.rechecks.run(requester, join)

    async def _join_once(
        self, requester: Requester, room_id: RoomID, request: JoinRequest
    ) -> EventID:
        user_id = requester.user_id
        local_room = await self._read_local_room(room_id, user_id)
        await self.policy.check_own(request.content)
        content = await self._with_profile(
            user_id, self._requested_content(event_types.JOIN, request)
        )
        own = None
        if local_room is not None and local_room.membership(user_id) == event_types.JOIN:
            own = await self._own_membership(room_id, user_id)
        is_joined = own is not None and own.membership == event_types.JOIN
        if not (is_joined and request.changes_nothing):
            # A joined user changes their profile in the room, which needs the same permission.
            await self._check_may_join(requester, room_id)
        if local_room is None:
            self.limits.check_remote_join(requester, room_id)
            if await self._join_remote(requester, room_id, request, content):
                return await self._finish_remote_join(user_id, room_id)
            # Another join has brought this server into the room meanwhile.
            local_room = await self._read_local_room(room_id, user_id)
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
            invite = await self.accept_third_party_invite(room_id, user_id, signed)
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
        event_id = await self._append(
            room_id, *drafts, _own(user_id, content, request.origin_server_ts)
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

    async def accept_third_party_invite(
        self, room_id: RoomID, user_id: UserID, signed: JsonObject
    ) -> Draft:
        """Return the invite that replaces a third-party invite; the auth rules verify it.

        Raises: BadJson, Forbidden.
        """
        token = signed.get("token")
        if not isinstance(token, str) or "\0" in token:
            raise BadJson("third_party_signed.token must be a string")
        key = (event_types.THIRD_PARTY_INVITE, token)
        auth_state = await self.auth_states.read(room_id, more=(key,))
        third_party_invite = None if auth_state is None else auth_state.events.get(key)
        if third_party_invite is None:
            raise Forbidden("The room has no such third-party invite")
        name = third_party_invite.content.get("display_name")
        content = await self._with_profile(user_id, _content(event_types.INVITE, None))
        content["third_party_invite"] = {
            "display_name": name if isinstance(name, str) else "",
            "signed": signed,
        }
        return Draft(event_types.MEMBER, third_party_invite.sender, content, user_id)

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
        draft = _member(requester.user_id, invite_content, target, at_ms)
        if self.memberships.is_local(target):
            return await self._append(room_id, draft)
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
            own = await self._own_membership(room_id, target)
            self.policy.check_may_reject(own)
        else:
            check_may_act(requester)
        draft = _member(requester.user_id, content, target, at_ms)
        return await self._append(room_id, attrs.evolve(draft, txn=txn))

    async def _append(self, room_id: RoomID, *drafts: Draft) -> EventID:
        try:
            appended = await self.appender.append(room_id, list(drafts))
        except NotFound as error:
            raise Forbidden("You are not in this room") from error
        return appended[-1].event_id

    async def _read_local_room(
        self, room_id: RoomID, user_id: UserID | None = None
    ) -> AuthState | None:
        """Read a room that can be joined without another server; None for other rooms."""
        members = () if user_id is None else (user_id,)
        auth_state = await self.auth_states.read(room_id, members=members, more=(GUEST_ACCESS_KEY,))
        if auth_state is None:
            return None
        present = await self.memberships.present(room_id)
        return None if present.joined and not present.local else auth_state

    def _requested_content(self, membership: str, request: JoinRequest) -> JsonObject:
        return _content(membership, request.reason, self.policy.own_content(request.content))

    async def _with_profile(self, user_id: UserID, content: JsonObject) -> JsonObject:
        return {**member_profile(await self.profiles.local_profile(user_id)), **content}


def third_party_event(
    room_id: RoomID, inviter: UserID, user_id: UserID, signed: JsonObject
) -> JsonObject:
    """Return the invite that a user asks the inviter's server for, by a third-party invite.

    Spec: server-server API, PUT exchange_third_party_invite.
    """
    third_party_invite = {"display_name": "", "signed": signed}
    content = {"membership": event_types.INVITE, "third_party_invite": third_party_invite}
    return {
        "type": event_types.MEMBER,
        "room_id": room_id,
        "sender": inviter,
        "state_key": user_id,
        "content": content,
    }


def own_content(requested: JsonObject) -> JsonObject:
    """Return what users may set in their own member events, from a request body or a content.

    Raises: BadJson, if the content is not canonical JSON.
    """
    content = {key: requested[key] for key in requested if key not in _RESERVED_FIELDS}
    check_canonical(content)
    return content


def _content(
    membership: str, reason: str | None, more: Mapping[str, Any] | None = None
) -> JsonObject:
    content: JsonObject = {**(more or {}), "membership": membership}
    if reason is not None:
        content["reason"] = reason
    return content


def _own(user_id: UserID, content: JsonObject, at_ms: int | None = None) -> Draft:
    return _member(user_id, content, user_id, at_ms)


def _member(sender: UserID, content: JsonObject, user_id: UserID, at_ms: int | None) -> Draft:
    return Draft(
        event_types.MEMBER, sender, content, user_id, origin_server_ts=at_ms, keep_if_same=True
    )


def _is_join(own: LocalMembership | None) -> bool:
    return own is not None and own.membership == event_types.JOIN


def _check_guest(requester: Requester, room: AuthState) -> None:
    if not requester.is_guest:
        return
    if room.text(event_types.GUEST_ACCESS, "guest_access") != "can_join":
        raise GuestForbidden("Guests may not join this room")
