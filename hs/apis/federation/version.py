"""What this server is, for whoever asks."""

import attrs

from hs import __version__
from hs.apis.web.auth import NONE
from hs.apis.web.route import route


@attrs.frozen
class Software:
    """Name and version."""

    name: str
    version: str


@attrs.frozen
class ServerVersion:
    """The answer's body."""

    server: Software


@attrs.frozen
class ServerVersionApi:
    """`/version`."""

    @route("GET", "/_matrix/federation/v1/version", auth=NONE)
    async def version(self) -> ServerVersion:
        """Spec: server-server API, Server implementation."""
        return ServerVersion(Software("hs", __version__))
