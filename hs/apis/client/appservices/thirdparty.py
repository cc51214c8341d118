"""Third-party networks, as application services know them."""

from typing import Any, Protocol

import attrs

from hs.apis.web.request import path, query, whole_query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import NotFound
from hs.core.requester import Requester

THIRD_PARTY = "/_matrix/client/v3/thirdparty"

# What a query may hold for this server rather than for the network.
_OURS = frozenset({"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"})

Fields = list[tuple[str, str]]


class Networks(Protocol):
    """Knows third-party networks."""

    async def protocols(self) -> dict[str, JsonObject]: ...

    async def protocol(self, name: str) -> JsonObject | None: ...

    async def locations(self, protocol: str, fields: Fields) -> list[JsonObject]: ...

    async def users(self, protocol: str, fields: Fields) -> list[JsonObject]: ...

    async def locations_of(self, alias: str) -> list[JsonObject]: ...

    async def users_of(self, user_id: str) -> list[JsonObject]: ...


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
class FieldsRequest:
    """Of which protocol, and what is known of the place or user."""

    requester: Requester
    protocol: str = path()
    asked: dict[str, list[str]] = whole_query()

    @property
    def fields(self) -> Fields:
        return [
            (name, value)
            for name, values in self.asked.items()
            if name not in _OURS
            for value in values
        ]


@attrs.frozen
class AliasRequest:
    """Of which alias."""

    requester: Requester
    alias: str = query()


@attrs.frozen
class UserRequest:
    """Of which user."""

    requester: Requester
    userid: str = query()


@attrs.frozen
class ThirdPartyApi:
    """`/thirdparty`."""

    networks: Networks

    @route("GET", THIRD_PARTY + "/protocols")
    async def protocols(self, request: LookupRequest) -> dict[str, Any]:
        """Spec: client-server API, Third-party Networks."""
        return await self.networks.protocols()

    @route("GET", THIRD_PARTY + "/protocol/{protocol}")
    async def protocol(self, request: ProtocolRequest) -> dict[str, Any]:
        """Spec: client-server API, Third-party Networks."""
        found = await self.networks.protocol(request.protocol)
        if found is None:
            raise NotFound("This protocol is not known")
        return found

    @route("GET", THIRD_PARTY + "/location/{protocol}")
    async def locations_of(self, request: FieldsRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        found = await self.networks.locations(request.protocol, request.fields)
        return _some(found, "No portal rooms were found")

    @route("GET", THIRD_PARTY + "/user/{protocol}")
    async def users_of(self, request: FieldsRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        found = await self.networks.users(request.protocol, request.fields)
        return _some(found, "No users were found")

    @route("GET", THIRD_PARTY + "/location")
    async def location(self, request: AliasRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        found = await self.networks.locations_of(request.alias)
        return _some(found, "The alias belongs to no third-party network")

    @route("GET", THIRD_PARTY + "/user")
    async def user(self, request: UserRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        found = await self.networks.users_of(request.userid)
        return _some(found, "The user belongs to no third-party network")


def _some(found: list[JsonObject], otherwise: str) -> list[JsonObject]:
    if not found:
        raise NotFound(otherwise)
    return found
