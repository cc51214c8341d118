"""Requests to policy servers.

Spec: server-server API, Policy Servers.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.ids import ServerName
from hs.services.federation_client.client import FederationClient

SIGN_PATH: Final = "/_matrix/policy/v1/sign"
TIMEOUT_S: Final = 10.0
MAX_RESPONSE_BYTES: Final = 16 << 10


@attrs.frozen(eq=False)
class RemotePolicyServers:
    """The PolicyServers of a server with federation."""

    _client: FederationClient

    async def sign(self, server: ServerName, pdu: bytes) -> Mapping[str, Any]:
        """Submit an event; return the signatures in the response. Raises: RemoteFault."""
        return await self._client.request(
            server, "POST", SIGN_PATH, pdu, timeout_s=TIMEOUT_S, max_bytes=MAX_RESPONSE_BYTES
        )
