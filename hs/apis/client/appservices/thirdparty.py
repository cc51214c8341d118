"""Lookups in the third-party networks of application services."""

from typing import Any

import attrs

from hs.apis.web.request import path, query, whole_query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import NotFound
from hs.core.requester import Requester
from hs.services.appservices.third_party_networks import ThirdPartyNetworks

THIRD_PARTY = "/_matrix/client/v3/thirdparty"

# Query parameters for this server, which are not passed to the application service.
_OWN_PARAMETERS = frozenset(
    {"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"}
)

Fields = list[tuple[str, str]]


@attrs.frozen
class GetProtocolsRequest:
    """GET /thirdparty/protocols."""

    requester: Requester


@attrs.frozen
class GetProtocolRequest:
    """GET /thirdparty/protocol/{protocol}."""

    requester: Requester
    protocol: str = path()


@attrs.frozen
class QueryByProtocolRequest:
    """GET /thirdparty/location/{protocol} and /thirdparty/user/{protocol}."""

    requester: Requester
    protocol: str = path()
    parameters: dict[str, list[str]] = whole_query()

    @property
    def fields(self) -> Fields:
        """The fields of the location or user to look for."""
        return [
            (name, value)
            for name, values in self.parameters.items()
            if name not in _OWN_PARAMETERS
            for value in values
        ]


@attrs.frozen
class QueryLocationByAliasRequest:
    """GET /thirdparty/location."""

    requester: Requester
    alias: str = query()


@attrs.frozen
class QueryUserByIdRequest:
    """GET /thirdparty/user."""

    requester: Requester
    userid: str = query()


@attrs.frozen
class ThirdPartyApi:
    """Endpoints of third-party lookups."""

    networks: ThirdPartyNetworks

    @route("GET", THIRD_PARTY + "/protocols")
    async def get_protocols(self, request: GetProtocolsRequest) -> dict[str, Any]:
        """Spec: client-server API, Third-party Networks."""
        return await self.networks.protocols()

    @route("GET", THIRD_PARTY + "/protocol/{protocol}")
    async def get_protocol(self, request: GetProtocolRequest) -> dict[str, Any]:
        """Spec: client-server API, Third-party Networks."""
        protocol = await self.networks.protocol(request.protocol)
        if protocol is None:
            raise NotFound("Unknown third-party protocol")
        return protocol

    @route("GET", THIRD_PARTY + "/location/{protocol}")
    async def query_location_by_protocol(self, request: QueryByProtocolRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        results = await self.networks.locations(request.protocol, request.fields)
        return _require_results(results, "No portal rooms were found")

    @route("GET", THIRD_PARTY + "/user/{protocol}")
    async def query_user_by_protocol(self, request: QueryByProtocolRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        results = await self.networks.users(request.protocol, request.fields)
        return _require_results(results, "No users were found")

    @route("GET", THIRD_PARTY + "/location")
    async def query_location_by_alias(self, request: QueryLocationByAliasRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        results = await self.networks.locations_of(request.alias)
        return _require_results(results, "The alias does not belong to a third-party network")

    @route("GET", THIRD_PARTY + "/user")
    async def query_user_by_id(self, request: QueryUserByIdRequest) -> list[Any]:
        """Spec: client-server API, Third-party Networks."""
        results = await self.networks.users_of(request.userid)
        return _require_results(results, "The user does not belong to a third-party network")


def _require_results(results: list[JsonObject], error: str) -> list[JsonObject]:
    """Return the results. Raises: NotFound if there are none."""
    if not results:
        raise NotFound(error)
    return results
