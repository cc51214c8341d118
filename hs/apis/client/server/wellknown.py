"""Well-known files: discovery of the server by its name."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.settings.sections.proposals import RtcSettings
from hs.settings.sections.server import ServerSettings


@attrs.frozen
class WellKnownApi:
    """Endpoints below /.well-known/matrix."""

    settings: ServerSettings
    rtc: RtcSettings = RtcSettings()

    @route("GET", "/.well-known/matrix/client", auth=NONE)
    async def get_client_wellknown(self) -> dict[str, Any]:
        """Spec: client-server API, Server Discovery."""
        content = client_wellknown_content(self.settings, self.rtc)
        if content is None:
            raise NotFound("public_baseurl is not configured on this server")
        return content

    @route("GET", "/.well-known/matrix/server", auth=NONE)
    async def get_server_wellknown(self) -> dict[str, str]:
        """Spec: server-server API, Server discovery."""
        if not self.settings.serve_server_wellknown:
            raise NotFound("This server has no delegation")
        name = self.settings.server_name
        host = name if name.endswith("]") else name.rsplit(":", 1)[0]
        return {"m.server": f"{host}:443"}

    @route("GET", "/.well-known/matrix/policy_server", auth=NONE)
    async def get_policy_server_wellknown(self) -> dict[str, Any]:
        """Spec: client-server API, Policy Servers."""
        raise NotFound("This server is not a policy server")

    @route("GET", "/.well-known/matrix/support", auth=NONE)
    async def get_support_wellknown(self) -> dict[str, Any]:
        """Spec: client-server API, Server Discovery."""
        content = self.settings.well_known_support.content()
        if content is None:
            raise NotFound("No support information is configured on this server")
        return content


def client_wellknown_content(settings: ServerSettings, rtc: RtcSettings) -> dict[str, Any] | None:
    """Return the discovery information for clients; None without a public base URL."""
    base_url = settings.public_baseurl
    if base_url is None:
        return None
    # Clients append paths that begin with a slash.
    content: dict[str, Any] = {"m.homeserver": {"base_url": base_url.rstrip("/")}}
    if settings.default_identity_server is not None:
        content["m.identity_server"] = {"base_url": settings.default_identity_server.rstrip("/")}
    if rtc.transports:
        content["org.matrix.msc4143.rtc_foci"] = rtc.transports
    return {**content, **settings.extra_well_known_client_content}
