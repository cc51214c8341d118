"""HTTPS requests whose address, certificate and Host header are chosen separately.

A server with delegation is reached at another name and port than its own, presents the certificate
of one of these names, and is told a name in the Host header. Connections are kept per address and
certificate name, so a connection that was made for one server is never used for another one.

The rules about addresses and responses are those of `connections`. Redirects are not followed.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import attrs
import trio
from yarl import URL

from hs.lib.aio import Bridge
from hs.lib.http_client import (
    HttpBlocked,
    HttpFault,
    HttpNotConnected,
    HttpResponse,
    HttpTimedOut,
    HttpUnreachable,
    ResponseTooLarge,
)
from hs.lib.http_client.addresses import AddressRules
from hs.lib.http_client.connections import (
    CHUNK_BYTES,
    CheckingResolver,
    Connector,
    PermittedAddresses,
    Resolve,
    fault_of,
    headers_of,
    open_session,
    read_body,
)
from hs.lib.http_client.targets import NO_PROXIES, Proxies, parse_target

CONNECTIONS: Final = 1000
CONNECTIONS_PER_HOST: Final = 10
IDLE_S: Final = 30.0
CONNECT_S: Final = 10.0
CLOSE_S: Final = 5.0


@attrs.frozen(kw_only=True)
class DirectedRequest:
    """A request to `host` (a name or an address, without brackets) and `port`.

    `certificate_name` is the name or address that the certificate must be valid for. `tls` is the
    context to verify it with.
    """

    method: str
    host: str
    port: int
    certificate_name: str
    uri: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    max_bytes: int
    tls: ssl.SSLContext

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(eq=False)
class OpenResponse:
    """A response whose body is received while `parts` are iterated."""

    status: int
    headers: Mapping[str, str]
    parts: AsyncIterator[bytes]


@attrs.define(eq=False)
class DirectedHttpClient:
    """The client on aiohttp. Sessions are opened at the first request and closed by `run`."""

    _bridge: Bridge
    _rules: AddressRules
    _proxies: Proxies = attrs.field(default=NO_PROXIES, kw_only=True)
    _resolve: Resolve | None = attrs.field(default=None, kw_only=True)
    _addresses: PermittedAddresses = attrs.field(init=False)
    _direct: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _proxied: aiohttp.ClientSession | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._addresses = PermittedAddresses(self._rules, self._resolve)

    async def send(self, request: DirectedRequest) -> HttpResponse:
        """Send a request and return the response, whatever its status.

        Raises: HttpFault; HttpNotConnected, if the request cannot have been received.
        """
        return await self._bridge.run(self._send, request)

    @asynccontextmanager
    async def stream(self, request: DirectedRequest) -> AsyncIterator[OpenResponse]:
        """Send a request and open the response without reading its body. Raises: HttpFault.

        `timeout_s` bounds the time until the end of the body. Compressed bodies are refused.
        """
        response, deadline = await self._bridge.run(self._open, request)
        try:
            parts = self._parts(request, response, deadline)
            yield OpenResponse(response.status, headers_of(response), parts)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._bridge.run(_release, response)

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

    async def _parts(
        self, request: DirectedRequest, response: aiohttp.ClientResponse, deadline: float
    ) -> AsyncIterator[bytes]:
        received = 0
        while part := await self._bridge.run(_read_part, request, response, deadline):
            received += len(part)
            if received > request.max_bytes:
                raise ResponseTooLarge(f"the response is larger than {request.max_bytes} bytes")
            yield part

    # The methods below run on the asyncio loop.

    async def _send(self, request: DirectedRequest) -> HttpResponse:
        try:
            async with asyncio.timeout(request.timeout_s):
                async with await self._begin(request, "gzip") as response:
                    body = await read_body(response, request.max_bytes)
                    return HttpResponse(response.status, headers_of(response), body, request.uri)
        except TimeoutError:
            raise _timed_out(request) from None
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise fault_of(error, request.place) from error

    async def _open(self, request: DirectedRequest) -> tuple[aiohttp.ClientResponse, float]:
        deadline = asyncio.get_running_loop().time() + request.timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._begin(request, "identity")
        except TimeoutError:
            raise _timed_out(request) from None
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            response.close()
            raise HttpUnreachable(f"{request.place}: the response is compressed")
        return response, deadline

    async def _begin(self, request: DirectedRequest, encoding: str) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of the response."""
        target = parse_target(f"https://{request.place}{request.uri}")
        if target.literal is not None and not self._addresses.is_permitted(str(target.literal)):
            raise HttpBlocked(f"{target.host} is a blocked address")
        url = URL(target.url, encoded=True)
        if url.raw_host != target.host:
            raise HttpBlocked("the host is ambiguous")
        proxy = self._proxies.proxy_for(target)
        try:
            if proxy is not None and target.literal is None:
                await self._addresses.check_before_proxy(target.host)
            return await self._session(proxy).request(
                request.method,
                url,
                headers={"accept-encoding": encoding, **request.headers},
                data=request.body,
                proxy=proxy,
                allow_redirects=False,
                ssl=request.tls,
                server_hostname=request.certificate_name,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            )
        except aiohttp.ConnectionTimeoutError:
            raise HttpNotConnected(
                f"{request.place}: no connection after {CONNECT_S:g} s"
            ) from None
        except aiohttp.ClientConnectorError as error:
            fault = fault_of(error, request.place)
            if isinstance(fault, HttpBlocked):
                raise fault from error
            raise HttpNotConnected(f"{request.place}: {_reason(error)}") from error
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise fault_of(error, request.place) from error

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
                    )
                )
            return self._direct
        if self._proxied is None:
            # The proxy was chosen by the administrator and may have any address.
            connector = Connector(limit=CONNECTIONS, keepalive_timeout=IDLE_S)
            self._proxied = open_session(connector)
        return self._proxied

    async def _close(self) -> None:
        sessions, self._direct, self._proxied = (self._direct, self._proxied), None, None
        for session in sessions:
            if session is not None:
                await session.close()
        self._addresses.close()


async def _read_part(
    request: DirectedRequest, response: aiohttp.ClientResponse, deadline: float
) -> bytes:
    """Return the next part of a body; b"" at its end."""
    try:
        async with asyncio.timeout_at(deadline):
            return await response.content.read(CHUNK_BYTES)
    except TimeoutError:
        raise _timed_out(request) from None
    except (aiohttp.ClientError, OSError) as error:
        raise fault_of(error, request.place) from error


async def _release(response: aiohttp.ClientResponse) -> None:
    """Keep the connection if the body was read to its end; close it otherwise."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def _timed_out(request: DirectedRequest) -> HttpFault:
    return HttpTimedOut(f"{request.place}: timed out after {request.timeout_s:g} s")


def _reason(error: aiohttp.ClientConnectorError) -> str:
    """Return why there is no connection, in the words of the system or of OpenSSL."""
    cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {cause.verify_message}"
    return cause.strerror or str(cause) or type(cause).__name__
