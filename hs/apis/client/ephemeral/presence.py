"""Presence of users."""

from typing import Any

import attrs

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.ephemeral.presence import PresenceService


@attrs.frozen
class GetPresenceRequest:
    """GET /presence/{userId}/status."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class SetPresenceRequest:
    """PUT /presence/{userId}/status."""

    requester: Requester
    user_id: UserID = path()
    presence: Any = body()
    status_msg: str | None = body(default=None)


@attrs.frozen
class PresenceApi:
    """Endpoints of presence."""

    presence: PresenceService

    @route("GET", "/_matrix/client/v3/presence/{user_id}/status", auth=USER_OR_GUEST)
    async def get_presence(self, request: GetPresenceRequest) -> dict[str, Any]:
        """Spec: client-server API, Presence."""
        return await self.presence.presence_of(request.requester, request.user_id)

    @route("PUT", "/_matrix/client/v3/presence/{user_id}/status", auth=USER, rate="presence")
    async def set_presence(self, request: SetPresenceRequest) -> Empty:
        """Spec: client-server API, Presence."""
        await self.presence.set_presence(
            request.requester, request.user_id, request.presence, request.status_msg
        )
        return Empty()
