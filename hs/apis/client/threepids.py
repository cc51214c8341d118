"""E-mail addresses and telephone numbers, of which this server keeps none."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.errors import NoValidSession, ThreepidDenied
from hs.core.requester import Requester

V3 = "/_matrix/client/v3"


@attrs.frozen
class OwnRequest:
    """Who asks."""

    requester: Requester


@attrs.frozen
class RemoveRequest:
    """Which address."""

    requester: Requester
    medium: str = body()
    address: str = body()
    id_server: str | None = body(default=None)


@attrs.frozen
class ThreepidsApi:
    """`…/requestToken` and `/account/3pid/…`."""

    @route("POST", V3 + "/register/email/requestToken", auth=NONE, rate="3pid_validation")
    @route("POST", V3 + "/register/msisdn/requestToken", auth=NONE, rate="3pid_validation")
    @route("POST", V3 + "/account/password/email/requestToken", auth=NONE, rate="3pid_validation")
    @route("POST", V3 + "/account/password/msisdn/requestToken", auth=NONE, rate="3pid_validation")
    @route("POST", V3 + "/account/3pid/email/requestToken", auth=NONE, rate="3pid_validation")
    @route("POST", V3 + "/account/3pid/msisdn/requestToken", auth=NONE, rate="3pid_validation")
    async def request_token(self) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        raise ThreepidDenied("This server sends neither e-mail nor text messages")

    @route("POST", V3 + "/account/3pid")
    @route("POST", V3 + "/account/3pid/add")
    @route("POST", V3 + "/account/3pid/bind")
    async def add(self, request: OwnRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        raise NoValidSession("No address has been validated")

    @route("POST", V3 + "/account/3pid/delete")
    @route("POST", V3 + "/account/3pid/unbind")
    async def remove(self, request: RemoveRequest) -> dict[str, str]:
        """Spec: client-server API, Adding account administrative contact information."""
        return {"id_server_unbind_result": "success"}
