"""Refusing invites that the invited user of ours does not want.

Spec: client-server API, Invite permission; MSC4155.
"""

from typing import Protocol

import attrs
import orjson

from hs.core.errors import InviteBlocked
from hs.core.ids import RoomID, UserID
from hs.core.invite_permission import TYPES, InvitePermission, Verdict, read_permission


class OwnData(Protocol):
    """Users' account data."""

    async def content(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes | None:
        """Give one piece as JSON."""
        ...


@attrs.frozen(eq=False)
class InvitePermissions:
    """Knows what users of ours want."""

    _data: OwnData

    async def of(self, user_id: UserID) -> InvitePermission:
        """Give what a user wants."""
        found = {one: await self._data.content(user_id, None, one) for one in TYPES}
        return read_permission({one: orjson.loads(c) for one, c in found.items() if c is not None})

    async def check(self, inviter: UserID, target: UserID) -> None:
        """Refuse an invite that its target blocks. Raises: InviteBlocked."""
        if (await self.of(target)).verdict(inviter) is Verdict.BLOCK:
            raise InviteBlocked("This user does not want to be invited")
