"""Pushers of the requester."""

from typing import Any

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.push.pushers.pushers import Pushers


@attrs.frozen
class GetPushersRequest:
    """GET /pushers."""

    requester: Requester


@attrs.frozen
class SetPusherRequest:
    """POST /pushers/set; deletes the pusher if its kind is null."""

    requester: Requester
    pusher: JsonObject = whole_body()


@attrs.frozen
class PushersApi:
    """Endpoints of pushers."""

    pushers: Pushers

    @route("GET", "/_matrix/client/v3/pushers")
    async def get_pushers(self, request: GetPushersRequest) -> dict[str, Any]:
        """Spec: client-server API, Push Notifications."""
        return {"pushers": await self.pushers.shown_to(request.requester)}

    @route("POST", "/_matrix/client/v3/pushers/set")
    async def set_pusher(self, request: SetPusherRequest) -> Empty:
        """Spec: client-server API, Push Notifications."""
        await self.pushers.change(request.requester, request.pusher)
        return Empty()
