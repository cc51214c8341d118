"""Reject invites that the invited local user has blocked.

Spec: client-server API, Invite permission; MSC4155.
"""

import attrs
import orjson

from hs.core.errors import InviteBlocked
from hs.core.ids import UserID
from hs.core.invite_permission import (
    INVITE_PERMISSION_TYPES,
    InvitePermission,
    InviteVerdict,
    parse_invite_permission,
)
from hs.services.accounts.account_data.account_data import AccountDataService


@attrs.frozen(eq=False)
class InvitePermissions:
    """The invite permissions of local users."""

    _account_data: AccountDataService

    async def of(self, user_id: UserID) -> InvitePermission:
        """Return a user's invite permission."""
        contents = {
            type_: await self._account_data.stored(user_id, None, type_)
            for type_ in INVITE_PERMISSION_TYPES
        }
        return parse_invite_permission(
            {type_: orjson.loads(text) for type_, text in contents.items() if text is not None}
        )

    async def check(self, inviter: UserID, target: UserID) -> None:
        """Reject an invite that its target blocks. Raises: InviteBlocked."""
        if (await self.of(target)).verdict(inviter) is InviteVerdict.BLOCK:
            raise InviteBlocked("This user does not accept your invites")
