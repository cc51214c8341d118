"""The IP addresses and user agents from which a user's devices were used."""

from typing import Any

import attrs

from hs.apis.web.request import path
from hs.apis.web.route import route
from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.sessions.device_management import DeviceManagement


@attrs.frozen
class WhoisRequest:
    """GET /admin/whois/{userId}."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class WhoisApi:
    """The endpoint of whois."""

    devices: DeviceManagement

    @route(
        "GET",
        "/_matrix/client/v3/admin/whois/{user_id}",
        extra_paths=["/_synapse/admin/v1/whois/{user_id}"],
    )
    async def whois(self, request: WhoisRequest) -> dict[str, Any]:
        """Spec: client-server API, Server Administration."""
        requester, user_id = request.requester, request.user_id
        if not requester.is_admin and user_id != requester.user_id:
            raise Forbidden("Only server administrators may look up other users")
        return {"user_id": user_id, "devices": await self.devices.connections_of(user_id)}
