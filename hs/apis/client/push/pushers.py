"""Pushers: where notifications go."""

from typing import Any

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.push.pushers.pushers import Pushers


@attrs.frozen
class GetPushers:
    """Ask for the requester's pushers."""

    requester: Requester


@attrs.frozen
class SetPusher:
    """Set or delete a pusher."""

    requester: Requester
    pusher: JsonObject = whole_body()


@attrs.frozen
class PushersApi:
    """The paths under /pushers."""

    pushers: Pushers

    @route("GET", "/_matrix/client/v3/pushers")
    async def get_pushers(self, request: GetPushers) -> dict[str, Any]:
        """Spec: client-server API, GET pushers."""
        return {"pushers": await self.pushers.shown_to(request.requester)}

    @route("POST", "/_matrix/client/v3/pushers/set")
    async def set_pusher(self, request: SetPusher) -> Empty:
        """Spec: client-server API, POST pushers/set."""
        await self.pushers.change(request.requester, request.pusher)
        return Empty()
