"""Third-party networks of application services: protocols, locations and users.

Spec: application service API, Third-party networks.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import trio

from hs.core.canonical_json import JsonObject
from hs.lib.caching.lru_cache import LruCache
from hs.lib.http_client import HttpFault
from hs.services.appservices.appservice_client import (
    AppserviceClient,
    AppserviceRoute,
    QueryParameters,
    path_segment,
)
from hs.services.appservices.appservice_registry import Appservice, AppserviceRegistry

ANSWER_S: Final = 20.0
CACHED_S: Final = 3600.0
"""How long the description of a protocol is cached."""

MAX_PROTOCOLS: Final = 1000
_LEGACY: Final = "/_matrix/app/unstable"

log = logging.getLogger(__name__)


@attrs.frozen
class _CachedProtocol:
    protocol: JsonObject
    until_s: float


class ThirdPartyNetworks:
    """Requests to all services concurrently, with merged results.

    Services that fail or return invalid results are left out.
    """

    def __init__(self, registry: AppserviceRegistry, calls: AppserviceClient) -> None:
        self._registry = registry
        self._calls = calls
        self._protocols: LruCache[tuple[str, str], _CachedProtocol] = LruCache(
            "appservice_protocols", max_entries=MAX_PROTOCOLS
        )

    async def protocols(self) -> dict[str, JsonObject]:
        """Return all protocols by name."""
        names = {
            name for service in self._registry.services for name in service.registration.protocols
        }
        protocols: dict[str, JsonObject] = {}

        async def add(name: str) -> None:
            protocol = await self.protocol(name)
            if protocol is not None:
                protocols[name] = protocol

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(add, name)
        return dict(sorted(protocols.items()))

    async def protocol(self, name: str) -> JsonObject | None:
        """Return a protocol with the networks of all services; None if no service has it."""
        services = self._offering(name)
        answers: list[JsonObject | None] = [None] * len(services)

        async def request(index: int, service: Appservice) -> None:
            answers[index] = await self._protocol_of(service, name)

        async with trio.open_nursery() as nursery:
            for index, service in enumerate(services):
                nursery.start_soon(request, index, service)
        return _merge([answer for answer in answers if answer is not None])

    async def locations(self, protocol: str, fields: QueryParameters) -> list[JsonObject]:
        """Return locations of a protocol that match the fields."""
        route = _route(f"/thirdparty/location/{path_segment(protocol)}")
        return await self._look_up(self._offering(protocol), route, fields, _is_location)

    async def users(self, protocol: str, fields: QueryParameters) -> list[JsonObject]:
        """Return users of a protocol that match the fields."""
        route = _route(f"/thirdparty/user/{path_segment(protocol)}")
        return await self._look_up(self._offering(protocol), route, fields, _is_user)

    async def locations_of(self, alias: str) -> list[JsonObject]:
        """Return the third-party locations of an alias."""
        services = [service for service in self._registry.services if service.owns_alias(alias)]
        route = _route("/thirdparty/location")
        return await self._look_up(services, route, [("alias", alias)], _is_location)

    async def users_of(self, user_id: str) -> list[JsonObject]:
        """Return the third-party users of a Matrix user."""
        services = self._registry.owners(user_id)
        route = _route("/thirdparty/user")
        return await self._look_up(services, route, [("userid", user_id)], _is_user)

    def _offering(self, protocol: str) -> list[Appservice]:
        services = self._registry.services
        return [service for service in services if protocol in service.registration.protocols]

    async def _protocol_of(self, service: Appservice, name: str) -> JsonObject | None:
        key = (service.id, name)
        cached = self._protocols.get(key)
        if cached is not None and cached.until_s > trio.current_time():
            return cached.protocol
        content = await self._get_json(
            service, _route(f"/thirdparty/protocol/{path_segment(name)}"), ()
        )
        if not isinstance(content, dict):
            return None
        protocol = _with_instance_ids(service, content)
        self._protocols.put(key, _CachedProtocol(protocol, trio.current_time() + CACHED_S))
        return protocol

    async def _look_up(
        self,
        services: Sequence[Appservice],
        route: AppserviceRoute,
        query: QueryParameters,
        is_valid: Callable[[Any], bool],
    ) -> list[JsonObject]:
        results_by_service: list[list[JsonObject]] = [[] for _ in services]

        async def request(index: int, service: Appservice) -> None:
            results = await self._get_json(service, route, query)
            if isinstance(results, list):
                results_by_service[index] = [result for result in results if is_valid(result)]

        async with trio.open_nursery() as nursery:
            for index, service in enumerate(services):
                nursery.start_soon(request, index, service)
        return [result for results in results_by_service for result in results]

    async def _get_json(
        self, service: Appservice, route: AppserviceRoute, query: QueryParameters
    ) -> Any:
        if service.registration.url is None:
            return None
        try:
            return await self._calls.get_json(service, route, query, timeout_s=ANSWER_S)
        except HttpFault as error:
            log.warning("request to appservice %s failed (%s): %s", service.id, route.path, error)
            return None


def _route(path: str) -> AppserviceRoute:
    return AppserviceRoute(path, legacy_path=_LEGACY + path)


def _merge(answers: list[JsonObject]) -> JsonObject | None:
    if not answers:
        return None
    instances = [instance for answer in answers for instance in answer.get("instances", [])]
    return {**answers[0], "instances": instances}


def _with_instance_ids(service: Appservice, protocol: JsonObject) -> JsonObject:
    """Add the instance IDs with which clients select a network's room list."""
    instances = protocol.get("instances")
    result: list[JsonObject] = []
    for instance in instances if isinstance(instances, list) else []:
        if isinstance(instance, dict):
            network = instance.get("network_id")
            extra = {"instance_id": f"{service.id}|{network}"} if isinstance(network, str) else {}
            result.append({**instance, **extra})
    return {**protocol, "instances": result}


def _is_location(result: Any) -> bool:
    return _is_result(result) and isinstance(result.get("alias"), str)


def _is_user(result: Any) -> bool:
    return _is_result(result) and isinstance(result.get("userid"), str)


def _is_result(result: Any) -> bool:
    return (
        isinstance(result, dict)
        and isinstance(result.get("protocol"), str)
        and isinstance(result.get("fields"), dict)
    )
