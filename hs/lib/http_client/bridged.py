"""The HTTP client on aiohttp, in the asyncio loop of the process; the only importer of aiohttp.

URLs often come from users, and their owners choose what the host names resolve to. So requests
must be kept from internal addresses (SSRF). Rules:

- Each connection goes to an address that was checked in its resolved form: aiohttp asks a resolver
  that returns permitted addresses only, without a cache in between. So a name cannot change its
  address after the check. Each socket checks its address once more.
- Addresses in URLs are checked before the request, and a URL is rejected if aiohttp's parser would
  read another host in it than `parse_target` does.
- Redirects are followed here, not by aiohttp: each location passes all these checks. Credentials in
  headers are sent only to the origin they were given for.
- A forward proxy resolves names itself. Names are therefore also resolved and checked here before;
  a name that resolves differently at the proxy is a matter of the proxy's own rules.
- A response is read in chunks, and decompressed only up to the limit on its size.
- Responses that nobody has asked for, and interim ones, are bounded in number, and so is whatever
  is not part of a body: aiohttp reads it all, and pauses only for bodies. The loop is that of the
  database, too.
- One deadline covers the whole exchange. Cookies, proxies from the environment and aiohttp's
  default headers are not used.
"""

import asyncio
import functools
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import attrs
import trio
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
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
    HttpUnreachable,
    ResponseTooLarge,
)
from hs.lib.http_client.addresses import AddressRules, parse_address
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
# More responses to one request are interim ones that nobody reads.
UNREAD_RESPONSES = 20
# Headers, and the sizes of chunks as far as they are longer than the chunks.
OVERHEAD_BYTES = 1 << 18
RESOLVER_THREADS = 8
CLOSE_S = 5.0

_CHUNK_BYTES = 65536
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_KEEPS_METHOD = frozenset((307, 308))
_SECRET_HEADERS = frozenset(("authorization", "cookie", "proxy-authorization"))
_NO_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

Resolve = Callable[[str], Awaitable[Sequence[str]]]
AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class _BlockedAddress(OSError):
    """Reports a blocked address from a resolver or a socket through aiohttp."""


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
    _direct: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _proxied: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _resolver_threads: ThreadPoolExecutor | None = attrs.field(default=None, init=False)

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
            if proxy is not None:
                await self._check_before_proxy(target)
            session = self._session(proxy)
            async with session.request(
                request.method,
                url,
                headers={"accept-encoding": "gzip", **request.headers},
                data=request.body,
                proxy=proxy,
                allow_redirects=False,
            ) as response:
                body = await _read(response, request.max_bytes)
                return HttpResponse(response.status, _headers(response), body, target.url)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise _fault(error, target) from error

    async def _check_before_proxy(self, target: RequestTarget) -> None:
        """Resolve the host and raise Blocked if any of its addresses is blocked."""
        if target.literal is not None or not self._rules.blocked:
            return
        for text in await self._addresses(target.host):
            if not self._is_permitted(text):
                raise HttpBlocked(f"{target.host} resolves to a blocked address")

    async def _addresses(self, host: str) -> Sequence[str]:
        if self._resolve is not None:
            return await self._resolve(host)
        if self._resolver_threads is None:
            # A separate pool, as slow names must not delay other look-ups on the loop.
            self._resolver_threads = ThreadPoolExecutor(RESOLVER_THREADS, "outgoing HTTP resolver")
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._resolver_threads, _system_resolve, host)
        return list(dict.fromkeys(addresses))

    def _is_permitted(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and self._rules.permits(address)

    async def permitted_addresses(self, host: str) -> Sequence[str]:
        """Resolve a name and return the addresses that may be contacted."""
        addresses = await self._addresses(host)
        permitted = [text for text in addresses if self._is_permitted(text)]
        if addresses and not permitted:
            raise _BlockedAddress(f"{host} resolves to a blocked address")
        return permitted

    def _make_socket(self, info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._is_permitted(str(address[0])):
            raise _BlockedAddress(f"{address[0]} is a blocked address")
        return socket.socket(family, kind, protocol)

    def _session(self, proxy: str | None) -> aiohttp.ClientSession:
        if proxy is None:
            if self._direct is None:
                self._direct = _open_session(
                    _Connector(
                        resolver=_CheckingResolver(self),
                        socket_factory=self._make_socket,
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
            connector = _Connector(
                limit=CONNECTIONS, keepalive_timeout=IDLE_S, ssl=self._tls or True
            )
            self._proxied = _open_session(connector)
        return self._proxied

    async def _close(self) -> None:
        sessions, self._direct, self._proxied = (self._direct, self._proxied), None, None
        for session in sessions:
            if session is not None:
                await session.close()
        if self._resolver_threads is not None:
            self._resolver_threads.shutdown(wait=False, cancel_futures=True)
            self._resolver_threads = None


@attrs.frozen(eq=False)
class _CheckingResolver(AbstractResolver):
    """A resolver for aiohttp that returns only addresses that may be contacted."""

    _client: BridgedHttpClient

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name.

        Raises: OSError.
        """
        return [
            ResolveResult(
                hostname=host,
                host=text,
                port=port,
                family=socket.AF_INET6 if ":" in text else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for text in await self._client.permitted_addresses(host)
        ]

    async def close(self) -> None:
        """Do nothing: the resolver holds no resources."""


class _ResponseHandler(ResponseHandler):
    """A connection that is closed when its server sends much that is not part of a body."""

    _received_bytes = 0

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the response to the next request."""
        self._received_bytes = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Parse what was received."""
        self._received_bytes += len(data)
        super().data_received(data)
        body_bytes = 0 if self._payload is None else self._payload.total_bytes
        if self._received_bytes - 2 * body_bytes > OVERHEAD_BYTES:
            self._give_up("the response has almost no content")

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Queue a response, the parser's result."""
        if len(self) < UNREAD_RESPONSES:
            super().feed_data(data, size)
        else:
            self._give_up("too many responses to one request")

    def _give_up(self, reason: str) -> None:
        if self.transport is None:
            return
        error = aiohttp.ClientPayloadError(reason)
        if self._payload is not None:
            self._payload.set_exception(error)
        self.abort()  # forgets exceptions
        self.set_exception(error)


class _Connector(aiohttp.TCPConnector):
    """A connector whose connections bound the responses that are not read yet."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        factory: Any = functools.partial(_ResponseHandler, loop=self._loop)
        self._factory = factory


def _open_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        auto_decompress=False,
        requote_redirect_url=False,
        skip_auto_headers=_NO_AUTO_HEADERS,
    )


def _redirected(request: _Request, status: int, location: str) -> _Request:
    target = parse_location(request.target, location)
    headers, method, body = request.headers, request.method, request.body
    if status not in _KEEPS_METHOD and method not in ("GET", "HEAD"):
        method, body = "GET", None
        headers = {name: value for name, value in headers.items() if name != "content-type"}
    if target.origin != request.target.origin:
        headers = {name: value for name, value in headers.items() if name not in _SECRET_HEADERS}
    return attrs.evolve(request, target=target, method=method, headers=headers, body=body)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read a body; decompress it in steps, so that a decompression bomb is cut off in time."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise HttpUnreachable(f"unsupported content-encoding {encoding!r:.20} in the response")
    decompressor = None if encoding in ("identity", "") else zlib.decompressobj(wbits=31)
    received, body = 0, bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        received += len(chunk)
        if decompressor is None:
            body += chunk
        elif not decompressor.eof:
            body += decompressor.decompress(chunk, max_bytes + 1 - len(body))
        if len(body) > max_bytes or received > max_bytes:
            raise ResponseTooLarge(f"the response is larger than {max_bytes} bytes")
    if decompressor is not None and received and not decompressor.eof:
        raise HttpUnreachable("the compressed response is truncated")
    return bytes(body)


def _headers(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    return {
        name.lower(): _readable(", ".join(response.headers.getall(name)))
        for name in response.headers
    }


def _readable(value: str) -> str:
    """Replace invalid UTF-8, which aiohttp decodes to lone surrogates."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _fault(error: BaseException, target: RequestTarget) -> HttpFault:
    """Translate an exception of aiohttp or of a socket."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _BlockedAddress):
            return HttpBlocked(f"{target.host} resolves to a blocked address")
        cause = cause.__cause__ or cause.__context__
    return HttpUnreachable(
        f"{target.scheme}://{target.host}: {str(error) or type(error).__name__:.200}"
    )


def _system_resolve(host: str) -> list[str]:
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in entries]
