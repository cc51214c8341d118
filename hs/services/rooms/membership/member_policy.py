"""What the administrator says about memberships, beyond the rooms' own rules."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import CannotLeaveServerNoticeRoom, Forbidden
from hs.core.events import event_types
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.avatar_rules import AvatarRules
from hs.services.rooms.profiles.member_profiles import SHOWN_FIELDS, shown
from hs.services.rooms.store.memberships import LocalMembership
from hs.settings.sections.rooms import RoomSettings


@attrs.frozen
class MemberPolicy:
    """Decides by the settings; `notices_user` sends what the server has to say to its users."""

    settings: RoomSettings = RoomSettings()
    notices_user: UserID | None = None
    avatars: AvatarRules | None = None

    def check_may_invite(self, requester: Requester) -> None:
        """Refuse invites where only administrators may. Raises: Forbidden."""
        if self.settings.block_non_admin_invites and not requester.is_admin:
            raise Forbidden("Invites have been disabled on this server")

    def check_may_reject(self, own: LocalMembership | None) -> None:
        """Refuse to turn down an invite to the room of the server's notices.

        Spec: client-server API, Server Notices.
        Raises: CannotLeaveServerNoticeRoom.
        """
        if self.is_from_server(own):
            raise CannotLeaveServerNoticeRoom("You cannot reject this invite")

    def is_from_server(self, own: LocalMembership | None) -> bool:
        """Tell whether a membership is an invite to the room of the server's notices."""
        return (
            own is not None
            and self.notices_user is not None
            and own.membership == event_types.INVITE
            and own.sender == self.notices_user
        )

    async def check_own(self, content: Mapping[str, Any]) -> None:
        """Refuse avatars that may not be. Raises: Forbidden."""
        if self.avatars is not None and self.settings.allow_per_room_profiles:
            await self.avatars.check_content(content)

    def own_content(self, content: Mapping[str, Any]) -> JsonObject:
        """Give what a user may say in their own member event; perhaps not who they are."""
        if self.settings.allow_per_room_profiles:
            return dict(content)
        return {key: content[key] for key in content if key not in SHOWN_FIELDS}

    def invited(self, profile: Mapping[str, Any]) -> dict[str, str]:
        """Give what an invite shows of the invited user."""
        return shown(profile) if self.settings.include_profile_data_on_invite else {}
