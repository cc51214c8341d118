"""Where calls of many may run.

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
class Ask:
    """Who asks."""

    requester: Requester


@attrs.frozen
class RtcApi:
    """`/rtc/transports`."""

    settings: RtcSettings

    @route("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", auth=USER_OR_GUEST)
    async def transports(self, request: Ask) -> dict[str, tuple[Mapping[str, Any], ...]]:
        """MSC4143."""
        return {"rtc_transports": self.settings.transports}
