"""Third-party networks, of which a server without bridges knows none."""

from typing import Any

import attrs

from hs.apis.web.request import path
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.requester import Requester

THIRD_PARTY = "/_matrix/client/v3/thirdparty"


@attrs.frozen
class LookupRequest:
    """Who asks."""

    requester: Requester


@attrs.frozen
class ProtocolRequest:
    """Of which protocol."""

    requester: Requester
    protocol: str = path()


@attrs.frozen
class ThirdPartyApi:
    """`/thirdparty`."""

    @route("GET", THIRD_PARTY + "/protocols")
    async def protocols(self, request: LookupRequest) -> dict[str, Any]:
        """Spec: client-server API, Third-party Networks."""
        return {}

    @route("GET", THIRD_PARTY + "/protocol/{protocol}")
    async def protocol(self, request: ProtocolRequest) -> dict[str, Any]:
        """Spec: client-server API, Third-party Networks."""
        raise NotFound("This protocol is not known")

    @route("GET", THIRD_PARTY + "/location/{protocol}")
    async def locations_of(self, request: ProtocolRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        raise NotFound("No portal rooms were found")

    @route("GET", THIRD_PARTY + "/user/{protocol}")
    async def users_of(self, request: ProtocolRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        raise NotFound("No users were found")

    @route("GET", THIRD_PARTY + "/location")
    async def location(self, request: LookupRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        raise NotFound("The alias belongs to no third-party network")

    @route("GET", THIRD_PARTY + "/user")
    async def user(self, request: LookupRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        raise NotFound("The user belongs to no third-party network")
