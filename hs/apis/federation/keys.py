"""The verify keys of this server."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.services.federation_client.own_keys import OwnKeys


@attrs.frozen
class ServerKeysApi:
    """The endpoint of this server's own keys."""

    keys: OwnKeys

    @route("GET", "/_matrix/key/v2/server", auth=NONE)
    async def get_server_keys(self) -> JsonObject:
        """Spec: server-server API, Publishing Keys."""
        return self.keys.response()
