"""Making rooms: all first events in one commit, with the alias held before and bound after."""

from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import Forbidden, InvalidParam, InvalidRoomState
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, server_of
from hs.core.requester import Requester
from hs.core.versions import room_version
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.directory.aliases import Aliases, Reservation
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.creation.initial_events import FirstMembers, NewRoomRequest, first_events
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.profiles.member_profiles import LocalProfiles, shown
from hs.settings.sections.rooms import RoomSettings

MAX_INVITES: Final = 100
MAX_INVITES_OF_UNLIMITED: Final = 5000  # of application services: they bring whole groups


@attrs.frozen(eq=False, kw_only=True)
class RoomCreation:
    """Makes rooms for clients."""

    appender: RoomAppender
    aliases: Aliases
    public_rooms: PublicRooms
    profiles: LocalProfiles
    remote: RemoteRooms
    limits: MembershipLimits
    invites: InvitePermissions
    settings: RoomSettings
    server_name: ServerName

    async def create(self, requester: Requester, asked: NewRoomRequest) -> RoomID:
        """Make a room.

        Raises: UnsupportedRoomVersion, RoomInUse, InvalidRoomState, InvalidParam, BadJson,
        Forbidden, InviteBlocked, TooLarge, LimitExceeded.
        """
        check_may_act(requester)
        creator = requester.user_id
        wanted = asked.room_version
        rules = room_version(self.settings.default_room_version if wanted is None else wanted)
        asked = attrs.evolve(asked, invite=tuple(dict.fromkeys(asked.invite)))
        await self._check_invites(requester, asked.invite)
        alias = self._alias(requester, asked)
        if asked.is_listed:
            self.public_rooms.check_may_publish(creator, "", (alias,) if alias else ())
        members = FirstMembers(
            creator=creator,
            profile=shown(await self.profiles.of_local(creator)),
            invited={
                one: self._policy.invited(await self.profiles.of_local(one)) for one in asked.invite
            },
        )
        drafts = first_events(asked, members, rules, alias, self.settings)
        held = None if alias is None else await self.aliases.reserve(creator, alias)
        room_id = await self._make(rules.identifier, drafts, held)
        if asked.is_listed:
            await self.public_rooms.set_listed(room_id, True)
        for draft in drafts:
            if self._is_remote_invite(draft):
                await self.remote.invite(room_id, draft)
        return room_id

    @property
    def _policy(self) -> MemberPolicy:
        return MemberPolicy(self.settings)

    def _alias(self, requester: Requester, asked: NewRoomRequest) -> RoomAlias | None:
        if asked.alias_localpart is None:
            return None
        alias = self.aliases.named(asked.alias_localpart)
        self.aliases.check_may_create(requester.user_id, alias, "")
        self.aliases.check_may_manage(requester, alias)
        return alias

    async def _check_invites(self, requester: Requester, invited: Sequence[UserID]) -> None:
        if requester.user_id in invited:
            raise InvalidParam("The creator of a room cannot be invited to it")
        check_invite_count(requester, len(invited))
        for user_id in invited:
            if server_of(user_id) != self.server_name:
                self.remote.check_can_invite(user_id)
            else:
                await self.invites.check(requester.user_id, user_id)
        if invited:
            self._policy.check_may_invite(requester)
        self.limits.check_first_invites(requester, invited)

    async def _make(self, version: str, drafts: list[Draft], held: Reservation | None) -> RoomID:
        local = [draft for draft in drafts if not self._is_remote_invite(draft)]
        try:
            room_id = (await self.appender.create(version, local))[0].room_id
        except Exception as error:
            if held is not None:
                await self.aliases.release(held)
            if isinstance(error, Forbidden):
                raise InvalidRoomState(error.message) from error
            raise
        if held is not None:
            await self.aliases.bind(held, room_id)
        return room_id

    def _is_remote_invite(self, draft: Draft) -> bool:
        return (
            draft.type == event_types.MEMBER
            and draft.content.get("membership") == event_types.INVITE
            and draft.state_key is not None
            and not draft.state_key.endswith(f":{self.server_name}")
        )


def check_invite_count(requester: Requester, count: int) -> None:
    """Refuse more invites to a new room than there may be. Raises: InvalidParam."""
    most = MAX_INVITES_OF_UNLIMITED if requester.unlimited else MAX_INVITES
    if count > most:
        # Waiting would not help, so that this is no matter of rate limits.
        raise InvalidParam(f"At most {most} users can be invited to a new room")
