"""The administrator's rules on memberships, in addition to the rooms' own."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import CannotLeaveServerNoticeRoom, Forbidden
from hs.core.events import event_types
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.avatar_rules import AvatarRules
from hs.services.rooms.profiles.member_profiles import PROFILE_FIELDS, member_profile
from hs.services.rooms.store.memberships import LocalMembership
from hs.settings.sections.rooms import RoomSettings


@attrs.frozen
class MemberPolicy:
    """Rules by the settings; `notices_user` is the sender of server notices."""

    settings: RoomSettings = RoomSettings()
    notices_user: UserID | None = None
    avatars: AvatarRules | None = None

    def check_may_invite(self, requester: Requester) -> None:
        """Reject invites if only administrators may invite. Raises: Forbidden."""
        if self.settings.block_non_admin_invites and not requester.is_admin:
            raise Forbidden("Invites have been disabled on this server")

    def check_may_reject(self, own: LocalMembership | None) -> None:
        """Raise CannotLeaveServerNoticeRoom for an invite to the room of server notices.

        Spec: client-server API, Server Notices.
        """
        if self.is_from_server(own):
            raise CannotLeaveServerNoticeRoom("You cannot reject this invite")

    def is_from_server(self, own: LocalMembership | None) -> bool:
        """Return whether a membership is an invite to the room of server notices."""
        return (
            own is not None
            and self.notices_user is not None
            and own.membership == event_types.INVITE
            and own.sender == self.notices_user
        )

    async def check_own(self, content: Mapping[str, Any]) -> None:
        """Reject avatars that are not allowed. Raises: Forbidden."""
        if self.avatars is not None and self.settings.allow_per_room_profiles:
            await self.avatars.check_content(content)

    def own_content(self, content: Mapping[str, Any]) -> JsonObject:
        """Return the part of `content` that users may set in their own member event.

        Without per-room profiles, profile fields are removed.
        """
        if self.settings.allow_per_room_profiles:
            return dict(content)
        return {key: content[key] for key in content if key not in PROFILE_FIELDS}

    def invited(self, profile: Mapping[str, Any]) -> dict[str, str]:
        """Return the profile fields of an invited user for the invite."""
        return member_profile(profile) if self.settings.include_profile_data_on_invite else {}
