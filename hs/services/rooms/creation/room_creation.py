"""Create rooms: all first events in one commit, with the alias reserved before it."""

import logging
from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import Forbidden, InvalidParam, InvalidRoomState, MatrixError, RemoteFault
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, server_of
from hs.core.requester import Requester
from hs.core.versions import room_version
from hs.lib.time_slice import TimeSlice
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.directory.aliases import AliasReservation, LocalAliases
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.creation.initial_events import (
    FirstMembers,
    NewRoomRequest,
    check_first_event,
    first_events,
)
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.profiles.member_profiles import member_profile
from hs.settings.sections.rooms import RoomSettings

MAX_INVITES: Final = 100
MAX_INVITES_IF_EXEMPT: Final = 5000  # of application services, which bridge whole groups
MAX_INVITES_AT_ONCE: Final = 100  # in one commit; the first ones are created with the room


log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class RoomCreation:
    """Creates rooms for clients."""

    appender: RoomAppender
    aliases: LocalAliases
    public_rooms: PublicRooms
    profiles: Profiles
    remote: RemoteRooms
    limits: MembershipLimits
    invites: InvitePermissions
    policy: MemberPolicy
    settings: RoomSettings
    server_name: ServerName

    async def create(self, requester: Requester, request: NewRoomRequest) -> RoomID:
        """Create a room.

        Raises: UnsupportedRoomVersion, RoomInUse, InvalidRoomState, InvalidParam, BadJson,
            Forbidden, InviteBlocked, TooLarge, LimitExceeded.
        """
        check_may_act(requester)
        creator = requester.user_id
        version = request.room_version
        rules = room_version(self.settings.default_room_version if version is None else version)
        request = attrs.evolve(request, invite=tuple(dict.fromkeys(request.invite)))
        await self._check_invites(requester, request.invite)
        if any(entry.type == event_types.THIRD_PARTY_INVITE for entry in request.initial_state):
            self.policy.check_may_invite(requester)
        alias = self._alias(requester, request)
        if request.is_listed:
            self.public_rooms.check_may_publish(creator, "", (alias,) if alias else ())
        members = FirstMembers(
            creator=creator,
            profile=member_profile(await self.profiles.local_profile(creator)),
            invited={
                user_id: self.policy.invited(await self.profiles.local_profile(user_id))
                for user_id in request.invite
            },
        )
        drafts = first_events(request, members, rules, alias, self.settings)
        time_slice = TimeSlice()
        for draft in drafts:
            check_first_event(draft, rules)
            await time_slice.yield_if_over()
        reservation = None if alias is None else await self.aliases.reserve(creator, alias)
        room_id = await self._append(rules.identifier, drafts, reservation)
        if request.is_listed:
            await self.public_rooms.set_listed(room_id, True)
        for draft in drafts:
            if self._is_remote_invite(draft):
                await self._invite_remote(room_id, draft)
        return room_id

    async def _invite_remote(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a user of another server, whose failure does not undo the room."""
        try:
            await self.remote.invite(room_id, draft)
        except (MatrixError, RemoteFault) as fault:
            log.info("room %s was created without %s: %s", room_id, draft.state_key, fault)

    def _alias(self, requester: Requester, request: NewRoomRequest) -> RoomAlias | None:
        if request.alias_localpart is None:
            return None
        alias = self.aliases.local_alias(request.alias_localpart)
        self.aliases.check_may_create(requester.user_id, alias, "")
        self.aliases.check_may_manage(requester, alias)
        return alias

    async def _check_invites(self, requester: Requester, invited: Sequence[UserID]) -> None:
        if requester.user_id in invited:
            raise InvalidParam("invite must not contain the creator of the room")
        check_invite_count(requester, len(invited))
        for user_id in invited:
            if server_of(user_id) != self.server_name:
                self.remote.check_can_invite(user_id)
            else:
                await self.invites.check(requester.user_id, user_id)
        if invited:
            self.policy.check_may_invite(requester)
        self.limits.check_first_invites(requester, invited)

    async def _append(
        self, version: str, drafts: list[Draft], reservation: AliasReservation | None
    ) -> RoomID:
        first, later = _split_off_invites(
            [draft for draft in drafts if not self._is_remote_invite(draft)]
        )
        try:
            room_id = (await self.appender.create(version, first))[0].room_id
        except Exception as error:
            if reservation is not None:
                await self.aliases.release(reservation)
            if isinstance(error, (Forbidden, InvalidParam)):
                raise InvalidRoomState(error.message) from error
            raise
        if reservation is not None:
            await self.aliases.bind(reservation, room_id)
        for start in range(0, len(later), MAX_INVITES_AT_ONCE):
            await self.appender.append(room_id, later[start : start + MAX_INVITES_AT_ONCE])
        return room_id

    def _is_remote_invite(self, draft: Draft) -> bool:
        return (
            draft.type == event_types.MEMBER
            and draft.content.get("membership") == event_types.INVITE
            and draft.state_key is not None
            and not draft.state_key.endswith(f":{self.server_name}")
        )


def _split_off_invites(drafts: list[Draft]) -> tuple[list[Draft], list[Draft]]:
    """Return the events with which a room is created, and the invites that follow them."""
    invites = [draft for draft in drafts if draft.content.get("membership") == event_types.INVITE]
    if len(invites) <= MAX_INVITES_AT_ONCE:
        return drafts, []
    later = invites[MAX_INVITES_AT_ONCE:]
    late_ids = {id(draft) for draft in later}
    return [draft for draft in drafts if id(draft) not in late_ids], later


def check_invite_count(requester: Requester, count: int) -> None:
    """Reject too many invites to a new room. Raises: InvalidParam."""
    limit = MAX_INVITES_IF_EXEMPT if requester.is_rate_limit_exempt else MAX_INVITES
    if count > limit:
        # Not LimitExceeded, as waiting would not help.
        raise InvalidParam(f"At most {limit} users can be invited to a new room")
