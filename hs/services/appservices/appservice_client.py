"""The HTTP client of application services: URLs, tokens and legacy routes.

Spec: application service API, Homeserver -> Application Service API.
"""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs
import orjson

from hs.lib.http_client import HttpClient, HttpFault, HttpResponse
from hs.services.appservices.appservice_registry import Appservice

V1: Final = "/_matrix/app/v1"
ANSWER_BYTES: Final = 1 << 20
_UNKNOWN_ROUTE: Final = (404, 405, 501)

QueryParameters = Sequence[tuple[str, str]]


class NoServiceUrl(HttpFault):
    """The service has no URL, so nothing can be sent to it."""


@attrs.frozen
class AppserviceRoute:
    """A route under `/_matrix/app/v1`, and the full path of its legacy version."""

    path: str
    legacy_path: str | None = None


@attrs.frozen(eq=False)
class AppserviceClient:
    """The client of application services."""

    _http: HttpClient
    _legacy_authorization: bool

    async def send(
        self,
        service: Appservice,
        method: str,
        route: AppserviceRoute,
        *,
        body: bytes | None = None,
        query: QueryParameters = (),
        timeout_s: float,
    ) -> HttpResponse:
        """Send a request; repeat it with the legacy path if the service does not know the route.

        Raises: HttpFault.
        """
        answer = await self._send(service, method, V1 + route.path, body, query, timeout_s)
        if route.legacy_path is not None and _is_unrecognised(answer):
            legacy_answer = await self._send(
                service, method, route.legacy_path, body, query, timeout_s
            )
            return answer if _is_unrecognised(legacy_answer) else legacy_answer
        return answer

    async def post(
        self, service: Appservice, path: str, body: bytes, timeout_s: float
    ) -> HttpResponse | None:
        """Send a request to a whole path; None if the service does not know the route.

        Raises: HttpFault.
        """
        answer = await self._send(service, "POST", path, body, (), timeout_s)
        return None if _is_unrecognised(answer) else answer

    async def get_json(
        self,
        service: Appservice,
        route: AppserviceRoute,
        query: QueryParameters = (),
        *,
        timeout_s: float,
    ) -> Any:
        """Return the JSON of a response with status 200; None for other responses.

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
        service: Appservice,
        method: str,
        path: str,
        body: bytes | None,
        query: QueryParameters,
        timeout_s: float,
    ) -> HttpResponse:
        registration = service.registration
        if registration.url is None:
            raise NoServiceUrl("the registration of the application service has no url")
        parameters = list(query)
        if self._legacy_authorization:
            parameters.append(("access_token", registration.hs_token))
        headers = {"authorization": f"Bearer {registration.hs_token}"}
        if body is not None:
            headers["content-type"] = "application/json"
        return await self._http.send(
            method,
            registration.url + path + (f"?{urlencode(parameters)}" if parameters else ""),
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            max_bytes=ANSWER_BYTES,
        )


def path_segment(text: str) -> str:
    """Encode an ID as a path segment."""
    return quote(text, safe="")


def _is_unrecognised(answer: HttpResponse) -> bool:
    """Return whether the service does not know the route, as opposed to the requested object."""
    if answer.status not in _UNKNOWN_ROUTE:
        return False
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return True
    errcode = content.get("errcode") if isinstance(content, dict) else None
    return errcode is None or errcode == "M_UNRECOGNIZED"
