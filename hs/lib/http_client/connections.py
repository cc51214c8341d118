"""Connections of aiohttp that go to permitted addresses only, and bounded responses on them.

Rules:

- Each connection goes to an address that was checked in its resolved form: aiohttp asks a resolver
  that returns permitted addresses only, without a cache in between. So a name cannot change its
  address after the check. Each socket checks its address once more.
- A response is read in chunks, and decompressed only up to the limit on its size.
- Responses that nobody has asked for, and interim ones, are bounded in number, and so is whatever
  is not part of a body: aiohttp reads it all, and pauses only for bodies. The loop is that of the
  database, too.

All of this runs on the asyncio loop.
"""

import asyncio
import functools
import socket
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import attrs
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from hs.lib.http_client import HttpBlocked, HttpFault, HttpUnreachable, ResponseTooLarge
from hs.lib.http_client.addresses import AddressRules, parse_address

# More responses to one request are interim ones that nobody reads.
UNREAD_RESPONSES = 20
# Headers, and the sizes of chunks as far as they are longer than the chunks.
OVERHEAD_BYTES = 1 << 18
RESOLVER_THREADS = 8
CHUNK_BYTES = 65536

_NO_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

Resolve = Callable[[str], Awaitable[Sequence[str]]]
AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class BlockedAddress(OSError):
    """Reports a blocked address from a resolver or a socket through aiohttp."""


@attrs.define(eq=False)
class PermittedAddresses:
    """Resolves names to addresses that may be contacted.

    `resolve` returns the addresses of a name; by default the system's resolver is used.
    """

    _rules: AddressRules
    _resolve: Resolve | None = None
    _max_threads: int = RESOLVER_THREADS
    _threads: ThreadPoolExecutor | None = attrs.field(default=None, init=False)

    async def all_addresses(self, host: str) -> Sequence[str]:
        """Resolve a name."""
        if self._resolve is not None:
            return await self._resolve(host)
        if self._threads is None:
            # A separate pool, as slow names must not delay other look-ups on the loop.
            self._threads = ThreadPoolExecutor(self._max_threads, "outgoing HTTP resolver")
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._threads, _system_resolve, host)
        return list(dict.fromkeys(addresses))

    def is_permitted(self, text: str) -> bool:
        """Return whether an address may be contacted."""
        address = parse_address(text)
        return address is not None and self._rules.permits(address)

    async def permitted(self, host: str) -> Sequence[str]:
        """Resolve a name and return the addresses that may be contacted."""
        addresses = await self.all_addresses(host)
        permitted = [text for text in addresses if self.is_permitted(text)]
        if addresses and not permitted:
            raise BlockedAddress(f"{host} resolves to a blocked address")
        return permitted

    async def check_before_proxy(self, host: str) -> None:
        """Raise HttpBlocked, if a name resolves to a blocked address: the proxy may connect to it.

        Without blocked addresses, the proxy alone need resolve the name.
        """
        if not self._rules.blocked:
            return
        for text in await self.all_addresses(host):
            if not self.is_permitted(text):
                raise HttpBlocked(f"{host} resolves to a blocked address")

    def make_socket(self, info: AddrInfo) -> socket.socket:
        """Make the socket for a connection. Raises: BlockedAddress."""
        family, kind, protocol, _, address = info
        if not self.is_permitted(str(address[0])):
            raise BlockedAddress(f"{address[0]} is a blocked address")
        return socket.socket(family, kind, protocol)

    def close(self) -> None:
        """Release the threads."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


@attrs.frozen(eq=False)
class CheckingResolver(AbstractResolver):
    """A resolver for aiohttp that returns only addresses that may be contacted."""

    _addresses: PermittedAddresses

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
            for text in await self._addresses.permitted(host)
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


class Connector(aiohttp.TCPConnector):
    """A connector whose connections bound the responses that are not read yet."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        factory: Any = functools.partial(_ResponseHandler, loop=self._loop)
        self._factory = factory


def open_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """Return a session without cookies, environment and default headers."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        auto_decompress=False,
        requote_redirect_url=False,
        skip_auto_headers=_NO_AUTO_HEADERS,
    )


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read a body; decompress it in steps, so that a decompression bomb is cut off in time."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise HttpUnreachable(f"unsupported content-encoding {encoding!r:.20} in the response")
    decompressor = None if encoding in ("identity", "") else zlib.decompressobj(wbits=31)
    received, body = 0, bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
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


def headers_of(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    """Return the headers of a response, their names in lower case."""
    return {
        name.lower(): _readable(", ".join(response.headers.getall(name)))
        for name in response.headers
    }


def _readable(value: str) -> str:
    """Replace invalid UTF-8, which aiohttp decodes to lone surrogates."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def fault_of(error: BaseException, host: str) -> HttpFault:
    """Translate an exception of aiohttp or of a socket."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BlockedAddress):
            return HttpBlocked(f"{host} resolves to a blocked address")
        cause = cause.__cause__ or cause.__context__
    return HttpUnreachable(f"{host}: {str(error) or type(error).__name__:.200}")


def _system_resolve(host: str) -> list[str]:
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in entries]
