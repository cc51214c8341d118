"""Requests to application services: addresses, tokens, and the routes of old.

Spec: application service API, Homeserver -> Application Service API.
"""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs
import orjson

from hs.lib.http_client import HttpAnswer, HttpClient, HttpFault
from hs.services.appservices.appservice_registry import Service

V1: Final = "/_matrix/app/v1"
ANSWER_BYTES: Final = 1 << 20
_UNKNOWN_ROUTE: Final = (404, 405, 501)

Query = Sequence[tuple[str, str]]


class NoAddress(HttpFault):
    """The service has no URL, so nothing is sent to it."""


@attrs.frozen
class Route:
    """A route under `/_matrix/app/v1`, and the whole path that it had before that."""

    path: str
    old_path: str | None = None


@attrs.frozen(eq=False)
class ServiceCalls:
    """Asks application services."""

    _http: HttpClient
    _legacy_authorization: bool

    async def send(
        self,
        service: Service,
        method: str,
        route: Route,
        *,
        body: bytes | None = None,
        query: Query = (),
        timeout_s: float,
    ) -> HttpAnswer:
        """Ask a service; one that does not know the route is asked by its old path.

        Raises: HttpFault.
        """
        answer = await self._send(service, method, V1 + route.path, body, query, timeout_s)
        if route.old_path is not None and _is_unrecognised(answer):
            old = await self._send(service, method, route.old_path, body, query, timeout_s)
            return answer if _is_unrecognised(old) else old
        return answer

    async def get_json(
        self, service: Service, route: Route, query: Query = (), *, timeout_s: float
    ) -> Any:
        """Give the JSON that a service answers with; None if it has none for us.

        Raises: HttpFault.
        """
        answer = await self.send(service, "GET", route, query=query, timeout_s=timeout_s)
        if answer.status != 200:
            return None
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            return None

    async def _send(
        self,
        service: Service,
        method: str,
        path: str,
        body: bytes | None,
        query: Query,
        timeout_s: float,
    ) -> HttpAnswer:
        registration = service.registration
        if registration.url is None:
            raise NoAddress("the application service has no url")
        asked = list(query)
        if self._legacy_authorization:
            asked.append(("access_token", registration.hs_token))
        headers = {"authorization": f"Bearer {registration.hs_token}"}
        if body is not None:
            headers["content-type"] = "application/json"
        return await self._http.send(
            method,
            registration.url + path + (f"?{urlencode(asked)}" if asked else ""),
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            max_bytes=ANSWER_BYTES,
        )


def in_path(text: str) -> str:
    """Write an ID as one segment of a path."""
    return quote(text, safe="")


def _is_unrecognised(answer: HttpAnswer) -> bool:
    """Tell whether the service does not know the route, rather than what was asked for."""
    if answer.status not in _UNKNOWN_ROUTE:
        return False
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return True
    errcode = found.get("errcode") if isinstance(found, dict) else None
    return errcode is None or errcode == "M_UNRECOGNIZED"
