"""The configured message retention policy, for clients (MSC1763)."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.rooms.read.retention_policy import RetentionPolicies


@attrs.frozen
class GetRetentionConfigurationRequest:
    """GET /retention/configuration."""

    requester: Requester


@attrs.frozen
class RetentionApi:
    """The endpoint of the retention policy."""

    policies: RetentionPolicies

    @route("GET", "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration", auth=USER)
    async def get_retention_configuration(
        self, request: GetRetentionConfigurationRequest
    ) -> dict[str, Any]:
        """Spec: MSC1763."""
        return self.policies.described()
