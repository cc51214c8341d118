"""The HTTP client on aiohttp, in the asyncio loop of the process.

Redirects are followed here, not by aiohttp: each location passes all checks of the first URL
(`sessions`). Credentials in headers are sent only to the origin they were given for. One deadline
covers the whole exchange.
"""

import asyncio
import zlib
from collections.abc import Mapping

import aiohttp
import attrs

from hs.lib.http_client import (
    MAX_RESPONSE_BYTES,
    NO_HEADERS,
    RESPONSE_TIMEOUT_S,
    HttpFault,
    HttpResponse,
    HttpTimedOut,
)
from hs.lib.http_client.connections import fault_of, headers_of, read_body
from hs.lib.http_client.sessions import HttpSessions
from hs.lib.http_client.targets import RequestTarget, parse_location, parse_target

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_KEEPS_METHOD = frozenset((307, 308))
_SECRET_HEADERS = frozenset(("authorization", "cookie", "proxy-authorization"))


@attrs.frozen(kw_only=True)
class _Request:
    """One request of a chain of redirects."""

    method: str
    target: RequestTarget
    headers: Mapping[str, str]
    body: bytes | None
    max_bytes: int


@attrs.frozen(eq=False)
class BridgedHttpClient:
    """The HttpClient on aiohttp."""

    sessions: HttpSessions
    _user_agent: str

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = RESPONSE_TIMEOUT_S,
        max_bytes: int = MAX_RESPONSE_BYTES,
        redirects: int = 0,
    ) -> HttpResponse:
        """Send a request, see `HttpClient.send`; cancelling the caller aborts the request."""
        first = _Request(
            method=method,
            target=parse_target(url),
            headers={"user-agent": self._user_agent, **_lower(headers)},
            body=body,
            max_bytes=max_bytes,
        )
        return await self.sessions.bridge.run(self._send, first, timeout_s, redirects)

    # The methods below run on the asyncio loop.

    async def _send(self, request: _Request, timeout_s: float, redirects: int) -> HttpResponse:
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(redirects + 1):
                    response = await self._exchange(request)
                    location = response.headers.get("location")
                    if not redirects or response.status not in _REDIRECTS or location is None:
                        return response
                    request = _redirected(request, response.status, location)
        except TimeoutError:
            raise HttpTimedOut(f"timed out after {timeout_s:g} s") from None
        raise HttpFault(f"more than {redirects} redirects")

    async def _exchange(self, request: _Request) -> HttpResponse:
        headers = {"accept-encoding": "gzip", **request.headers}
        try:
            async with await self.sessions.request(
                request.method, request.target, headers, request.body
            ) as response:
                body = await read_body(response, request.max_bytes)
                return HttpResponse(response.status, headers_of(response), body, request.target.url)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise fault_of(error, request.target.origin_text) from error


def _redirected(request: _Request, status: int, location: str) -> _Request:
    target = parse_location(request.target, location)
    headers, method, body = request.headers, request.method, request.body
    if status not in _KEEPS_METHOD and method not in ("GET", "HEAD"):
        method, body = "GET", None
        headers = {name: value for name, value in headers.items() if name != "content-type"}
    if target.origin != request.target.origin:
        headers = {name: value for name, value in headers.items() if name not in _SECRET_HEADERS}
    return attrs.evolve(request, target=target, method=method, headers=headers, body=body)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
