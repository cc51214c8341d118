"""Requests to application services for the keys of users in their exclusive namespaces.

Rules:

- The settings decide whether services are asked for one-time keys, and whether for device keys.
- Any failure counts as an empty answer: the keys that the service has uploaded are used.
- A service that does not know the route uploads its keys. It is not asked again for a while.
- What a service returns is not trusted: only requested users, devices and algorithms are used, and
  device keys must name the user and the device that they belong to.

Spec: MSC3983; MSC3984.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.lib.http_client import HttpFault
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.appservice_registry import Appservice, AppserviceRegistry

CLAIM: Final = "/_matrix/app/unstable/org.matrix.msc3983/keys/claim"
QUERY: Final = "/_matrix/app/unstable/org.matrix.msc3984/keys/query"
ANSWER_S: Final = 10.0
UNKNOWN_ROUTE_MS: Final = 300_000
"""For this time a service is not asked again that did not know the route."""

_DEVICE_KEYS: Final = "device_keys"
_CROSS_SIGNING: Final = ("master_keys", "self_signing_keys", "user_signing_keys")

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class AppserviceKeyRequests:
    """The AppserviceKeys of the device services."""

    _registry: AppserviceRegistry
    _calls: AppserviceClient
    _clock: Clock
    _claims: bool
    _queries: bool
    _unknown_until_ms: dict[tuple[str, str], int] = attrs.Factory(dict)

    def users_to_claim_from(self, user_ids: Collection[str]) -> AbstractSet[str]:
        """Return those users whose service can be asked for one-time keys."""
        if not self._claims:
            return frozenset()
        return {user_id for user_id in user_ids if self._service_of(user_id, CLAIM) is not None}

    async def claim(
        self, requested: Mapping[str, Mapping[str, str]]
    ) -> dict[str, dict[str, JsonObject]]:
        """Return a key of each device that a service has one for, as `{key ID: key}`."""
        claimed: dict[str, dict[str, JsonObject]] = {}

        def take(answer: JsonObject, users: Mapping[str, Mapping[str, str]]) -> None:
            for user_id, devices in users.items():
                of_user = _object(answer.get(user_id))
                for device_id, algorithm in devices.items():
                    key = _key_of_algorithm(_object(of_user.get(device_id)), algorithm)
                    if key is not None:
                        claimed.setdefault(user_id, {})[device_id] = key

        def as_body(users: Mapping[str, Mapping[str, str]]) -> JsonObject:
            return {
                user_id: {device_id: [algorithm] for device_id, algorithm in devices.items()}
                for user_id, devices in users.items()
            }

        if self._claims:
            await self._ask_all(CLAIM, requested, as_body, take)
        return claimed

    async def query(
        self, requested: Mapping[UserID, Sequence[str]]
    ) -> Mapping[str, Mapping[UserID, Any]]:
        """Return sections of a response to `/keys/query`, with requested users and devices only."""
        found: dict[str, dict[UserID, Any]] = {name: {} for name in (_DEVICE_KEYS, *_CROSS_SIGNING)}

        def take(answer: JsonObject, users: Mapping[UserID, Sequence[str]]) -> None:
            for user_id, device_ids in users.items():
                devices = _object(_object(answer.get(_DEVICE_KEYS)).get(user_id))
                found[_DEVICE_KEYS][user_id] = {
                    device_id: keys
                    for device_id, keys in devices.items()
                    if (not device_ids or device_id in device_ids)
                    and _belongs_to(keys, user_id, device_id)
                }
                for section in _CROSS_SIGNING:
                    key = _object(_object(answer.get(section)).get(user_id))
                    if key.get("user_id") == user_id:
                        found[section][user_id] = key

        if self._queries:
            await self._ask_all(QUERY, requested, dict, take)
        return found

    async def _ask_all(
        self,
        path: str,
        requested: Mapping[Any, Any],
        as_body: Callable[[Mapping[Any, Any]], JsonObject],
        take: Callable[[JsonObject, Mapping[Any, Any]], None],
    ) -> None:
        """Ask each service for its users, all at once, and take the answers."""
        by_service: dict[str, tuple[Appservice, dict[Any, Any]]] = {}
        for user_id, wanted in requested.items():
            service = self._service_of(user_id, path)
            if service is not None:
                by_service.setdefault(service.id, (service, {}))[1][user_id] = wanted

        async def ask(service: Appservice, users: Mapping[Any, Any]) -> None:
            take(await self._ask(service, path, as_body(users)), users)

        async with trio.open_nursery() as nursery:
            for service, users in by_service.values():
                nursery.start_soon(ask, service, users)

    async def _ask(self, service: Appservice, path: str, body: JsonObject) -> JsonObject:
        try:
            answer = await self._calls.post(service, path, orjson.dumps(body), ANSWER_S)
            if answer is None:
                until_ms = self._clock.steady_ms() + UNKNOWN_ROUTE_MS
                self._unknown_until_ms[service.id, path] = until_ms
                return {}
            if answer.status == 200:
                return _object(orjson.loads(answer.body))
            reason = f"status {answer.status}"
        except HttpFault as fault:
            reason = fault.message
        except orjson.JSONDecodeError:
            reason = "the response is not JSON"
        log.info("application service %s returned no keys: %s", service.id, reason)
        return {}

    def _service_of(self, user_id: str, path: str) -> Appservice | None:
        service = self._registry.exclusive_owner(user_id)
        if service is None or service.registration.url is None:
            return None
        unknown_until_ms = self._unknown_until_ms.get((service.id, path), 0)
        return None if self._clock.steady_ms() < unknown_until_ms else service


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _key_of_algorithm(keys: JsonObject, algorithm: str) -> JsonObject | None:
    for key_id, key in keys.items():
        if key_id.startswith(f"{algorithm}:") and isinstance(key, str | dict):
            return {key_id: key}
    return None


def _belongs_to(keys: object, user_id: str, device_id: str) -> bool:
    if not isinstance(keys, dict):
        return False
    return keys.get("user_id") == user_id and keys.get("device_id") == device_id
