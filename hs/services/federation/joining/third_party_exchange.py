"""Invites that other servers ask for, as their users have claimed third-party invites.

Spec: server-server API, Third-party invites.
"""

from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, parse_user_id
from hs.services.federation.joining.room_access import HandshakeAccess
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites


@attrs.frozen(eq=False)
class ThirdPartyExchange:
    """Serves exchange_third_party_invite."""

    _access: HandshakeAccess
    _invites: ThirdPartyInvites

    async def exchange(self, origin: ServerName, room_id: RoomID, event: JsonObject) -> None:
        """Invite the user who has claimed a third-party invite of a local user.

        Raises: InvalidParam, Forbidden, NotFound, RemoteFault.
        """
        await self._access.open(origin, room_id)
        content = _object(event, "content")
        if event.get("type") != event_types.MEMBER or content.get("membership") != "invite":
            raise InvalidParam("The event must be an m.room.member with the membership invite")
        if event.get("room_id") != room_id:
            raise InvalidParam("The event must have the room ID of the path")
        user_id = parse_user_id(event.get("state_key"))
        signed = _object(_object(content, "third_party_invite"), "signed")
        if signed.get("mxid") != user_id:
            raise InvalidParam("signed.mxid must be the invited user")
        await self._invites.exchange(room_id, user_id, signed)


def _object(holder: JsonObject, field: str) -> dict[str, Any]:
    value = holder.get(field)
    if not isinstance(value, dict):
        raise InvalidParam(f"{field} must be an object")
    return value
