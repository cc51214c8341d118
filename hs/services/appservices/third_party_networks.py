"""Third-party networks behind application services: their protocols, places and users.

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
from hs.services.appservices.appservice_client import Query, Route, ServiceCalls, in_path
from hs.services.appservices.appservice_registry import Service, ServiceRegistry

ANSWER_S: Final = 20.0
KEPT_S: Final = 3600.0
"""How long what a service says of a protocol is believed."""

MAX_PROTOCOLS: Final = 1000
_OLD: Final = "/_matrix/app/unstable"

log = logging.getLogger(__name__)


@attrs.frozen
class _Known:
    protocol: JsonObject
    until_s: float


class ThirdPartyNetworks:
    """Asks all services at once and puts their answers together."""

    def __init__(self, registry: ServiceRegistry, calls: ServiceCalls) -> None:
        self._registry = registry
        self._calls = calls
        self._protocols: LruCache[tuple[str, str], _Known] = LruCache(
            "appservice_protocols", max_entries=MAX_PROTOCOLS
        )

    async def protocols(self) -> dict[str, JsonObject]:
        """Give all protocols by their names."""
        names = {name for one in self._registry.services for name in one.registration.protocols}
        found: dict[str, JsonObject] = {}

        async def ask(name: str) -> None:
            protocol = await self.protocol(name)
            if protocol is not None:
                found[name] = protocol

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(ask, name)
        return dict(sorted(found.items()))

    async def protocol(self, name: str) -> JsonObject | None:
        """Give a protocol with the networks of all services; None if nobody knows it."""
        services = self._offering(name)
        answers: list[JsonObject | None] = [None] * len(services)

        async def ask(place: int, service: Service) -> None:
            answers[place] = await self._protocol_of(service, name)

        async with trio.open_nursery() as nursery:
            for place, service in enumerate(services):
                nursery.start_soon(ask, place, service)
        return _merged([one for one in answers if one is not None])

    async def locations(self, protocol: str, fields: Query) -> list[JsonObject]:
        """Find places of a protocol."""
        route = _route(f"/thirdparty/location/{in_path(protocol)}")
        return await self._look_up(self._offering(protocol), route, fields, _is_location)

    async def users(self, protocol: str, fields: Query) -> list[JsonObject]:
        """Find users of a protocol."""
        route = _route(f"/thirdparty/user/{in_path(protocol)}")
        return await self._look_up(self._offering(protocol), route, fields, _is_user)

    async def locations_of(self, alias: str) -> list[JsonObject]:
        """Find the places that an alias stands for."""
        services = [one for one in self._registry.services if one.owns_alias(alias)]
        route = _route("/thirdparty/location")
        return await self._look_up(services, route, [("alias", alias)], _is_location)

    async def users_of(self, user_id: str) -> list[JsonObject]:
        """Find the users that a Matrix user stands for."""
        services = self._registry.owners(user_id)
        route = _route("/thirdparty/user")
        return await self._look_up(services, route, [("userid", user_id)], _is_user)

    def _offering(self, protocol: str) -> list[Service]:
        services = self._registry.services
        return [one for one in services if protocol in one.registration.protocols]

    async def _protocol_of(self, service: Service, name: str) -> JsonObject | None:
        key = (service.id, name)
        known = self._protocols.get(key)
        if known is not None and known.until_s > trio.current_time():
            return known.protocol
        found = await self._ask(service, _route(f"/thirdparty/protocol/{in_path(name)}"), ())
        if not isinstance(found, dict):
            return None
        protocol = _with_instance_ids(service, found)
        self._protocols.put(key, _Known(protocol, trio.current_time() + KEPT_S))
        return protocol

    async def _look_up(
        self,
        services: Sequence[Service],
        route: Route,
        query: Query,
        is_wanted: Callable[[Any], bool],
    ) -> list[JsonObject]:
        answers: list[list[JsonObject]] = [[] for _ in services]

        async def ask(place: int, service: Service) -> None:
            found = await self._ask(service, route, query)
            if isinstance(found, list):
                answers[place] = [one for one in found if is_wanted(one)]

        async with trio.open_nursery() as nursery:
            for place, service in enumerate(services):
                nursery.start_soon(ask, place, service)
        return [one for found in answers for one in found]

    async def _ask(self, service: Service, route: Route, query: Query) -> Any:
        if service.registration.url is None:
            return None
        try:
            return await self._calls.get_json(service, route, query, timeout_s=ANSWER_S)
        except HttpFault as error:
            log.warning("appservice %s was not asked for %s: %s", service.id, route.path, error)
            return None


def _route(path: str) -> Route:
    return Route(path, old_path=_OLD + path)


def _merged(answers: list[JsonObject]) -> JsonObject | None:
    if not answers:
        return None
    instances = [one for answer in answers for one in answer.get("instances", [])]
    return {**answers[0], "instances": instances}


def _with_instance_ids(service: Service, protocol: JsonObject) -> JsonObject:
    """Name each network so that lists of rooms can be asked for its own."""
    instances = protocol.get("instances")
    named: list[JsonObject] = []
    for one in instances if isinstance(instances, list) else []:
        if isinstance(one, dict):
            network = one.get("network_id")
            more = {"instance_id": f"{service.id}|{network}"} if isinstance(network, str) else {}
            named.append({**one, **more})
    return {**protocol, "instances": named}


def _is_location(found: Any) -> bool:
    return _is_result(found) and isinstance(found.get("alias"), str)


def _is_user(found: Any) -> bool:
    return _is_result(found) and isinstance(found.get("userid"), str)


def _is_result(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("protocol"), str)
        and isinstance(found.get("fields"), dict)
    )
