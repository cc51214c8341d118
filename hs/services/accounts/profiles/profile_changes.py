"""Profile changes by clients: account restrictions and avatar rules apply."""

from typing import Any

import attrs

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.profiles.avatar_rules import AvatarRules
from hs.services.accounts.profiles.profiles import Profiles


@attrs.frozen(eq=False)
class ProfileChanges:
    """The profile changes that clients request."""

    _profiles: Profiles
    _avatars: AvatarRules | None = None

    async def set_field(
        self, requester: Requester, user_id: UserID, field: str, value: Any
    ) -> None:
        """Set a profile field.

        Raises: Forbidden, UserSuspended, ConsentNotGiven, InvalidParam, BadJson, KeyTooLarge,
        ProfileTooLarge.
        """
        check_may_act(requester)
        if self._avatars is not None and not requester.is_admin:
            await self._avatars.check_content({field: value})
        await self._profiles.set_field(requester, user_id, field, value)

    async def delete_field(self, requester: Requester, user_id: UserID, field: str) -> None:
        """Delete a profile field, if it is set.

        Raises: Forbidden, InvalidParam, KeyTooLarge.
        """
        check_may_act(requester)
        await self._profiles.delete_field(requester, user_id, field)
