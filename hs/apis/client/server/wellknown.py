"""How clients and servers that know only the server's name find it."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.settings.sections.proposals import RtcSettings
from hs.settings.sections.server import ServerSettings


@attrs.frozen
class WellKnownApi:
    """`/.well-known/matrix`."""

    settings: ServerSettings
    rtc: RtcSettings = RtcSettings()

    @route("GET", "/.well-known/matrix/client", auth=NONE)
    async def client(self) -> dict[str, Any]:
        """Spec: client-server API, Server Discovery."""
        told = told_to_clients(self.settings, self.rtc)
        if told is None:
            raise NotFound("The server does not know its own address")
        return told

    @route("GET", "/.well-known/matrix/server", auth=NONE)
    async def server(self) -> dict[str, str]:
        """Spec: server-server API, Server discovery."""
        if not self.settings.serve_server_wellknown:
            raise NotFound("The server is not delegated")
        name = self.settings.server_name
        host = name if name.endswith("]") else name.rsplit(":", 1)[0]
        return {"m.server": f"{host}:443"}

    @route("GET", "/.well-known/matrix/policy_server", auth=NONE)
    async def policy_server(self) -> dict[str, Any]:
        """Spec: client-server API, Policy Servers."""
        raise NotFound("This server is no policy server")

    @route("GET", "/.well-known/matrix/support", auth=NONE)
    async def support(self) -> dict[str, Any]:
        """Spec: client-server API, Server Discovery."""
        told = self.settings.well_known_support.content()
        if told is None:
            raise NotFound("There is no support information")
        return told


def told_to_clients(settings: ServerSettings, rtc: RtcSettings) -> dict[str, Any] | None:
    """Give what clients should know of the server; None where it does not know its address."""
    base_url = settings.public_baseurl
    if base_url is None:
        return None
    # Clients put paths behind it, so it has no slash at its end.
    told: dict[str, Any] = {"m.homeserver": {"base_url": base_url.rstrip("/")}}
    if settings.default_identity_server is not None:
        told["m.identity_server"] = {"base_url": settings.default_identity_server.rstrip("/")}
    if rtc.transports:
        told["org.matrix.msc4143.rtc_foci"] = rtc.transports
    return {**told, **settings.extra_well_known_client_content}
