"""HTTPS requests whose address, certificate and Host header are chosen separately.

A server with delegation is reached at another name and port than its own, presents the certificate
of one of these names, and is told a name in the Host header. Connections are kept per address and
certificate name, so a connection that was made for one server is never used for another one.

The rules about addresses and responses are those of `sessions` and `connections`. Redirects are not
followed.
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

from hs.lib.http_client import (
    HttpBlocked,
    HttpFault,
    HttpNotConnected,
    HttpResponse,
    HttpTimedOut,
    HttpUnreachable,
    ResponseTooLarge,
)
from hs.lib.http_client.connections import CHUNK_BYTES, fault_of, headers_of, read_body
from hs.lib.http_client.sessions import CLOSE_S, HttpSessions
from hs.lib.http_client.targets import parse_target

CONNECT_S: Final = 10.0


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
    def authority(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(eq=False)
class OpenResponse:
    """A response whose body is received while `parts` are iterated."""

    status: int
    headers: Mapping[str, str]
    parts: AsyncIterator[bytes]


@attrs.frozen(eq=False)
class DirectedHttpClient:
    """The client on aiohttp."""

    sessions: HttpSessions

    async def send(self, request: DirectedRequest) -> HttpResponse:
        """Send a request and return the response, whatever its status.

        Raises: HttpFault; HttpNotConnected, if the request cannot have been received.
        """
        return await self.sessions.bridge.run(self._send, request)

    @asynccontextmanager
    async def stream(self, request: DirectedRequest) -> AsyncIterator[OpenResponse]:
        """Send a request and open the response without reading its body. Raises: HttpFault.

        `timeout_s` bounds the time until the end of the body. Compressed bodies are refused.
        """
        response, deadline = await self.sessions.bridge.run(self._open, request)
        try:
            parts = self._parts(request, response, deadline)
            yield OpenResponse(response.status, headers_of(response), parts)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self.sessions.bridge.run(_release, response)

    async def _parts(
        self, request: DirectedRequest, response: aiohttp.ClientResponse, deadline: float
    ) -> AsyncIterator[bytes]:
        received = 0
        while part := await self.sessions.bridge.run(_read_part, request, response, deadline):
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
            raise fault_of(error, request.authority) from error

    async def _open(self, request: DirectedRequest) -> tuple[aiohttp.ClientResponse, float]:
        deadline = asyncio.get_running_loop().time() + request.timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._begin(request, "identity")
        except TimeoutError:
            raise _timed_out(request) from None
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            response.close()
            raise HttpUnreachable(f"{request.authority}: the response is compressed")
        return response, deadline

    async def _begin(self, request: DirectedRequest, encoding: str) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of the response."""
        target = parse_target(f"https://{request.authority}{request.uri}")
        headers = {"accept-encoding": encoding, **request.headers}
        try:
            return await self.sessions.request(
                request.method,
                target,
                headers,
                request.body,
                ssl=request.tls,
                server_hostname=request.certificate_name,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            )
        except aiohttp.ConnectionTimeoutError:
            raise HttpNotConnected(
                f"{request.authority}: no connection after {CONNECT_S:g} s"
            ) from None
        except aiohttp.ClientConnectorError as error:
            fault = fault_of(error, request.authority)
            if isinstance(fault, HttpBlocked):
                raise fault from error
            raise HttpNotConnected(f"{request.authority}: {_reason(error)}") from error
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise fault_of(error, request.authority) from error


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
        raise fault_of(error, request.authority) from error


async def _release(response: aiohttp.ClientResponse) -> None:
    """Keep the connection if the body was read to its end; close it otherwise."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def _timed_out(request: DirectedRequest) -> HttpFault:
    return HttpTimedOut(f"{request.authority}: timed out after {request.timeout_s:g} s")


def _reason(error: aiohttp.ClientConnectorError) -> str:
    """Return why there is no connection, in the words of the system or of OpenSSL."""
    cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {cause.verify_message}"
    return cause.strerror or str(cause) or type(cause).__name__
