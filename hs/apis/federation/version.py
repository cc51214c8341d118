"""Name and version of this server."""

import attrs

from hs import __version__
from hs.apis.web.auth import NONE
from hs.apis.web.route import route


@attrs.frozen
class ServerSoftware:
    """Name and version of the software."""

    name: str
    version: str


@attrs.frozen
class ServerVersionResponse:
    """The software of this server."""

    server: ServerSoftware


@attrs.frozen
class ServerVersionApi:
    """The endpoint of the server version."""

    @route("GET", "/_matrix/federation/v1/version", auth=NONE)
    async def get_version(self) -> ServerVersionResponse:
        """Spec: server-server API, Server implementation."""
        return ServerVersionResponse(ServerSoftware("hs", __version__))
