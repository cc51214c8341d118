"""The servers with which this server federates, for clients. As in Synapse."""

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.route import route
from hs.core.ids import ServerName
from hs.core.requester import Requester


@attrs.frozen
class GetFederationWhitelistRequest:
    """GET /federation_whitelist."""

    requester: Requester


@attrs.frozen
class FederationWhitelistResponse:
    """Whether only some servers are federated with, and these."""

    whitelist_enabled: bool
    whitelist: list[ServerName]


@attrs.frozen
class FederationWhitelistApi:
    """The endpoint; `whitelist` is None if all servers are federated with."""

    whitelist: tuple[ServerName, ...] | None

    @route("GET", "/_synapse/client/v1/config/federation_whitelist", auth=USER)
    async def get_federation_whitelist(
        self, request: GetFederationWhitelistRequest
    ) -> FederationWhitelistResponse:
        """Return the servers, to any user."""
        return FederationWhitelistResponse(self.whitelist is not None, [*(self.whitelist or ())])
