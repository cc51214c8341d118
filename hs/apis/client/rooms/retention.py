"""How long messages are kept, as clients are told."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.rooms.read.retention_policy import RetentionPolicies


@attrs.frozen
class GetConfiguration:
    requester: Requester


@attrs.frozen
class RetentionApi:
    """The administrator's policy and bounds."""

    policies: RetentionPolicies

    @route("GET", "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration", auth=USER)
    async def configuration(self, request: GetConfiguration) -> dict[str, Any]:
        """Spec: MSC1763."""
        return self.policies.described()
