"""The HTTP client on aiohttp, in the asyncio loop of the process.

URLs often come from users, and their owners choose what the host names resolve to. So requests
must be kept from internal addresses (SSRF). Rules:

- Each connection goes to an address that was checked (`connections`).
- Addresses in URLs are checked before the request, and a URL is rejected if aiohttp's parser would
  read another host in it than `parse_target` does.
- Redirects are followed here, not by aiohttp: each location passes all these checks. Credentials in
  headers are sent only to the origin they were given for.
- A forward proxy resolves names itself. Names are therefore also resolved and checked here before;
  a name that resolves differently at the proxy is a matter of the proxy's own rules.
- One deadline covers the whole exchange. Cookies, proxies from the environment and aiohttp's
  default headers are not used.
"""

import asyncio
import ssl
import zlib
from collections.abc import Mapping

import aiohttp
import attrs
import trio
from yarl import URL

from hs.lib.aio import Bridge
from hs.lib.http_client import (
    MAX_RESPONSE_BYTES,
    NO_HEADERS,
    RESPONSE_TIMEOUT_S,
    HttpBlocked,
    HttpFault,
    HttpResponse,
    HttpTimedOut,
)
from hs.lib.http_client.addresses import AddressRules
from hs.lib.http_client.connections import (
    CheckingResolver,
    Connector,
    PermittedAddresses,
    Resolve,
    fault_of,
    headers_of,
    open_session,
    read_body,
)
from hs.lib.http_client.targets import (
    NO_PROXIES,
    Proxies,
    RequestTarget,
    parse_location,
    parse_target,
)

CONNECTIONS = 100
CONNECTIONS_PER_HOST = 20
IDLE_S = 30.0
CLOSE_S = 5.0

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


@attrs.define(eq=False)
class BridgedHttpClient:
    """The HttpClient on aiohttp.

    Sessions are opened at the first request and closed by `aclose`. `resolve` runs on the asyncio
    loop and returns the addresses of a name; by default the system's resolver is used.
    """

    _bridge: Bridge
    _rules: AddressRules
    _user_agent: str = attrs.field(kw_only=True)
    _proxies: Proxies = attrs.field(default=NO_PROXIES, kw_only=True)
    _tls: ssl.SSLContext | None = attrs.field(default=None, kw_only=True)
    _resolve: Resolve | None = attrs.field(default=None, kw_only=True)
    _addresses: PermittedAddresses = attrs.field(init=False)
    _direct: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _proxied: aiohttp.ClientSession | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._addresses = PermittedAddresses(self._rules, self._resolve)

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
        return await self._bridge.run(self._send, first, timeout_s, redirects)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait until cancelled, then close all connections."""
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; a later request opens new ones."""
        await self._bridge.run(self._close)

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
        target = request.target
        if target.literal is not None and not self._rules.permits(target.literal):
            raise HttpBlocked(f"{target.host} is a blocked address")
        url = URL(target.url, encoded=True)
        if url.raw_host != target.host:
            raise HttpBlocked("the host in the URL is ambiguous")
        proxy = self._proxies.proxy_for(target)
        try:
            if proxy is not None and target.literal is None:
                await self._addresses.check_before_proxy(target.host)
            session = self._session(proxy)
            async with session.request(
                request.method,
                url,
                headers={"accept-encoding": "gzip", **request.headers},
                data=request.body,
                proxy=proxy,
                allow_redirects=False,
            ) as response:
                body = await read_body(response, request.max_bytes)
                return HttpResponse(response.status, headers_of(response), body, target.url)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise fault_of(error, target.origin_text) from error

    def _session(self, proxy: str | None) -> aiohttp.ClientSession:
        if proxy is None:
            if self._direct is None:
                self._direct = open_session(
                    Connector(
                        resolver=CheckingResolver(self._addresses),
                        socket_factory=self._addresses.make_socket,
                        use_dns_cache=False,
                        limit=CONNECTIONS,
                        limit_per_host=CONNECTIONS_PER_HOST,
                        keepalive_timeout=IDLE_S,
                        ssl=self._tls or True,
                    )
                )
            return self._direct
        if self._proxied is None:
            # The proxy was chosen by the administrator and may have any address.
            connector = Connector(
                limit=CONNECTIONS, keepalive_timeout=IDLE_S, ssl=self._tls or True
            )
            self._proxied = open_session(connector)
        return self._proxied

    async def _close(self) -> None:
        sessions, self._direct, self._proxied = (self._direct, self._proxied), None, None
        for session in sessions:
            if session is not None:
                await session.close()
        self._addresses.close()


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
