"""Joining, leaving, inviting, kicking, banning and knocking, as clients ask for it.

The rooms' rules are applied where events are appended; here is what comes before: limits, guests,
who lets one into a restricted room, and what member events say.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject, check_canonical
from hs.core.errors import BadJson, Forbidden, GuestForbidden, NotFound, Unknown
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID, parse_user_id
from hs.core.requester import Requester
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
from hs.services.accounts.limits.account_restrictions import check_may_act, may_act
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft, TxnKey
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.membership.room_succession import Succession
from hs.services.rooms.profiles.member_profiles import SHOWN_FIELDS, LocalProfiles, shown
from hs.services.rooms.store.auth_state import GUEST_ACCESS_KEY, Deciding, DecidingReader
from hs.services.rooms.store.memberships import CACHE_NAME, Memberships
from hs.storage.database import Database
from hs.storage.rooms import rooms

AUTHORISER: Final = "join_authorised_via_users_server"

_NOT_OWN: Final = frozenset({"membership", AUTHORISER, "third_party_invite", "third_party_signed"})
_PRESENT: Final = (event_types.JOIN, event_types.INVITE, event_types.KNOCK)


@attrs.frozen
class JoinRequest:
    """How a client wants to join or knock; `content` is more for the member event.

    `origin_server_ts` is for application services; others' is left to the clock.
    """

    reason: str | None = None
    via: Sequence[ServerName] = ()
    third_party_signed: JsonObject | None = None
    content: Mapping[str, Any] = attrs.Factory(dict)
    origin_server_ts: int | None = None

    @property
    def says_nothing(self) -> bool:
        """Tell whether a join would be no news to a room that one is in."""
        return self.reason is None and self.third_party_signed is None and not self.content


@attrs.frozen(eq=False, kw_only=True)
class RoomMembership:
    """Changes memberships for clients."""

    appender: RoomAppender
    deciding: DecidingReader
    memberships: Memberships
    restricted: RestrictedJoins
    profiles: LocalProfiles
    remote: RemoteRooms
    succession: Succession
    limits: MembershipLimits
    invites: InvitePermissions
    database: Database
    cache_drops: MemoryWriter[CacheRow]
    policy: MemberPolicy = MemberPolicy()

    async def join(self, requester: Requester, room_id: RoomID, asked: JoinRequest) -> RoomID:
        """Join the requester to a room; nothing happens to who is in it already.

        Raises: Forbidden, GuestForbidden, LimitExceeded, UnableToGrantJoin, UnableToAuthoriseJoin.
        """
        if asked.says_nothing:
            # What is not in memory is read by what follows.
            rooms = self.memberships.rooms_of_nowait(requester.user_id)
            own = None if rooms is None else rooms.get(room_id)
            if own is not None and own.membership == event_types.JOIN:
                return room_id
        await self._join(requester, room_id, asked)
        return room_id

    async def knock(self, requester: Requester, room_id: RoomID, asked: JoinRequest) -> RoomID:
        """Ask to be let into a room. Raises: Forbidden."""
        check_may_act(requester)
        await self.policy.check_own(asked.content)
        content = await self._with_profile(requester.user_id, self._asked(event_types.KNOCK, asked))
        if await self._here(room_id) is None:
            await self.remote.knock(requester.user_id, room_id, asked.via, content)
        else:
            await self._append(room_id, _own(requester.user_id, content))
        return room_id

    async def leave(self, requester: Requester, room_id: RoomID, reason: str | None = None) -> None:
        """Leave a room, reject an invite or take back a knock; who has left already may again.

        Raises: NotFound for an unknown room, Forbidden.
        """
        user_id = requester.user_id
        own = await self.memberships.local_membership(room_id, user_id)
        if own is not None and own.membership == event_types.LEAVE:
            return
        self.policy.check_may_reject(own)
        content = _content(event_types.LEAVE, reason)
        here = await self._here(room_id)
        if here is not None:
            await self._append(room_id, _own(user_id, content))
        elif own is None:
            raise NotFound("This room is not known")
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
        """Make a user leave, who must be present in some way. Raises: Forbidden."""
        if await self.memberships.membership(room_id, target) not in _PRESENT:
            raise Forbidden("The target user is not in the room")
        await self._set(requester, room_id, target, _content(event_types.LEAVE, reason, more))

    async def ban(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Ban a user. Raises: Forbidden."""
        await self._set(requester, room_id, target, _content(event_types.BAN, reason, more))

    async def unban(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None = None
    ) -> None:
        """Lift a ban. Raises: Forbidden."""
        if await self.memberships.membership(room_id, target) != event_types.BAN:
            raise Forbidden("The target user is not banned")
        await self._set(requester, room_id, target, _content(event_types.LEAVE, reason))

    async def forget(self, requester: Requester, room_id: RoomID) -> None:
        """Have a room that the requester has left shown to them no more.

        Raises: Unknown, while they are in it; NotFound, if they never were.
        """
        user_id = requester.user_id
        if await self.database.write(rooms.forget, user_id, room_id):
            self.cache_drops.append_nowait([CacheRow(CACHE_NAME, (user_id,))])
        elif await self.memberships.local_membership(room_id, user_id) is None:
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
        txn: TxnKey | None = None,
    ) -> EventID:
        """Put a member event of a client's making, under the same conditions.

        Kicks, bans and leaves are idempotent by `txn`, others by being the same again.
        Raises: BadJson, InvalidParam, Forbidden, GuestForbidden, LimitExceeded.
        """
        user_id = parse_user_id(target)
        membership = content.get("membership")
        if not isinstance(membership, str):
            raise BadJson("A member event needs a membership")
        if membership == event_types.JOIN and user_id == requester.user_id:
            asked = JoinRequest(content=own_content(content), origin_server_ts=at_ms)
            return await self._join(requester, room_id, asked)
        if membership == event_types.INVITE:
            return await self._invite(requester, room_id, user_id, content, at_ms)
        if membership == event_types.KNOCK:
            content = await self._with_profile(user_id, self.policy.own_content(content))
        return await self._set(requester, room_id, user_id, content, at_ms, txn)

    async def _join(self, requester: Requester, room_id: RoomID, asked: JoinRequest) -> EventID:
        user_id = requester.user_id
        here = await self._here(room_id, user_id)
        await self.policy.check_own(asked.content)
        content = await self._with_profile(user_id, self._asked(event_types.JOIN, asked))
        is_joined = here is not None and here.membership(user_id) == event_types.JOIN
        if not (is_joined and asked.says_nothing):
            # Who is in the room already changes the name that the others see there.
            await self._check_may_join(requester, room_id)
        if here is None:
            self.limits.check_remote_join(requester, room_id)
            await self.remote.join(user_id, room_id, asked.via, content)
            found = await self.deciding.read(room_id)
            if found is not None:
                await self.succession.follow(user_id, found.create)
            joined = await self.memberships.local_membership(room_id, user_id)
            return EventID("") if joined is None else joined.event_id
        if is_joined and asked.says_nothing:
            return here.events[event_types.MEMBER, user_id].event_id
        _check_guest(requester, here)
        if not is_joined:
            self.limits.check_join(requester, room_id)
        drafts = []
        if asked.third_party_signed is not None:
            drafts.append(await self.accepted(room_id, user_id, asked.third_party_signed))
        else:
            authoriser = await self.restricted.authoriser_for(user_id, here)
            if authoriser is not None:
                content[AUTHORISER] = authoriser
        event_id = await self._append(
            room_id, *drafts, _own(user_id, content, asked.origin_server_ts)
        )
        if not is_joined:
            await self.succession.follow(user_id, here.create)
        return event_id

    async def _check_may_join(self, requester: Requester, room_id: RoomID) -> None:
        """Refuse who may not act, except where the server itself has something to tell them."""
        if may_act(requester):
            return
        own = await self.memberships.local_membership(room_id, requester.user_id)
        if not self.policy.is_from_server(own):
            check_may_act(requester)

    async def accepted(self, room_id: RoomID, user_id: UserID, signed: JsonObject) -> Draft:
        """Make the invite that a third-party invite turns into; the room's rules prove it.

        Raises: BadJson, Forbidden.
        """
        token = signed.get("token")
        if not isinstance(token, str) or "\0" in token:
            raise BadJson("third_party_signed needs a token")
        key = (event_types.THIRD_PARTY_INVITE, token)
        found = await self.deciding.read(room_id, more=(key,))
        offer = None if found is None else found.events.get(key)
        if offer is None:
            raise Forbidden("The room has no such third-party invite")
        if not self.memberships.is_local(offer.sender):
            raise Forbidden("The third-party invite is another server's")
        name = offer.content.get("display_name")
        content = await self._with_profile(user_id, _content(event_types.INVITE, None))
        content["third_party_invite"] = {
            "display_name": name if isinstance(name, str) else "",
            "signed": signed,
        }
        return Draft(event_types.MEMBER, offer.sender, content, user_id)

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
        bare = {key: content[key] for key in content if key not in SHOWN_FIELDS}
        full = {**self.policy.invited(await self.profiles.of_local(target)), **bare}
        draft = _member(requester.user_id, full, target, at_ms)
        if self.memberships.is_local(target):
            return await self._append(room_id, draft)
        self.remote.check_can_invite(target)
        await self.remote.invite(room_id, draft)
        found = await self.deciding.read(room_id, members=(target,))
        invited = None if found is None else found.events.get((event_types.MEMBER, target))
        return EventID("") if invited is None else invited.event_id

    async def _set(
        self,
        requester: Requester,
        room_id: RoomID,
        target: UserID,
        content: JsonObject,
        at_ms: int | None = None,
        txn: TxnKey | None = None,
    ) -> EventID:
        if target == requester.user_id and content.get("membership") == event_types.LEAVE:
            own = await self.memberships.local_membership(room_id, target)
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

    async def _here(self, room_id: RoomID, user_id: UserID | None = None) -> Deciding | None:
        """Read a room that can be joined without another server; None for all others."""
        members = () if user_id is None else (user_id,)
        found = await self.deciding.read(room_id, members=members, more=(GUEST_ACCESS_KEY,))
        if found is None:
            return None
        present = await self.memberships.present(room_id)
        return None if present.joined and not present.local else found

    def _asked(self, membership: str, asked: JoinRequest) -> JsonObject:
        return _content(membership, asked.reason, self.policy.own_content(asked.content))

    async def _with_profile(self, user_id: UserID, content: JsonObject) -> JsonObject:
        return {**shown(await self.profiles.of_local(user_id)), **content}


def own_content(asked: JsonObject) -> JsonObject:
    """Give what users may put into member events of their own, out of a body or a content.

    Raises: BadJson, for what no event may hold.
    """
    content = {key: asked[key] for key in asked if key not in _NOT_OWN}
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


def _check_guest(requester: Requester, here: Deciding) -> None:
    if not requester.is_guest:
        return
    if here.text(event_types.GUEST_ACCESS, "guest_access") != "can_join":
        raise GuestForbidden("Guest access not allowed")
