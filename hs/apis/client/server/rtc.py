"""The MatrixRTC transports of this server.

Spec: MSC4143.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.settings.sections.proposals import RtcSettings


@attrs.frozen
class GetRtcTransportsRequest:
    """GET /rtc/transports."""

    requester: Requester


@attrs.frozen
class RtcTransportsApi:
    """The endpoint of MatrixRTC transports."""

    settings: RtcSettings

    @route("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", auth=USER_OR_GUEST)
    async def get_rtc_transports(
        self, request: GetRtcTransportsRequest
    ) -> dict[str, tuple[Mapping[str, Any], ...]]:
        """Spec: MSC4143."""
        return {"rtc_transports": self.settings.transports}
