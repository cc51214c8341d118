"""The sessions of aiohttp that the HTTP clients send requests in.

URLs often come from users, and their owners choose what the host names resolve to. So requests
must be kept from internal addresses (SSRF). Rules:

- Each connection goes to an address that was checked (`connections`).
- Addresses in URLs are checked before the request, and a URL is rejected if aiohttp's parser would
  read another host in it than `parse_target` does.
- A forward proxy resolves names itself. Names are therefore also resolved and checked here before;
  a name that resolves differently at the proxy is a matter of the proxy's own rules.
- Cookies, proxies from the environment, redirects by aiohttp and its default headers are not used.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import attrs
import trio
from yarl import URL

from hs.lib.aio import Bridge
from hs.lib.http_client import HttpBlocked
from hs.lib.http_client.addresses import AddressRules
from hs.lib.http_client.connections import (
    RESOLVER_THREADS,
    CheckingResolver,
    Connector,
    PermittedAddresses,
    Resolve,
    open_session,
)
from hs.lib.http_client.targets import NO_PROXIES, Proxies, RequestTarget

CONNECTIONS: Final = 100
CONNECTIONS_PER_HOST: Final = 20
IDLE_S: Final = 30.0
CLOSE_S: Final = 5.0


@attrs.define(eq=False)
class HttpSessions:
    """A session for direct connections, and another for connections through a proxy.

    They are opened at the first request and closed by `aclose`. `resolve` runs on the asyncio loop
    and returns the addresses of a name; by default the system's resolver is used. `tls` verifies
    certificates, unless a request has a context of its own.
    """

    bridge: Bridge
    _rules: AddressRules
    _proxies: Proxies = attrs.field(default=NO_PROXIES, kw_only=True)
    _tls: ssl.SSLContext | None = attrs.field(default=None, kw_only=True)
    _resolve: Resolve | None = attrs.field(default=None, kw_only=True)
    _connections: int = attrs.field(default=CONNECTIONS, kw_only=True)
    _connections_per_host: int = attrs.field(default=CONNECTIONS_PER_HOST, kw_only=True)
    _resolver_threads: int = attrs.field(default=RESOLVER_THREADS, kw_only=True)
    _addresses: PermittedAddresses = attrs.field(init=False)
    _direct: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _proxied: aiohttp.ClientSession | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._addresses = PermittedAddresses(self._rules, self._resolve, self._resolver_threads)

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
        await self.bridge.run(self._close)

    # The methods below run on the asyncio loop.

    async def request(
        self,
        method: str,
        target: RequestTarget,
        headers: Mapping[str, str],
        body: bytes | None,
        **options: Any,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response, of which only the head has been read.

        `options` are those of aiohttp. Raises: HttpBlocked; exceptions of aiohttp and of sockets.
        """
        if target.literal is not None and not self._rules.permits(target.literal):
            raise HttpBlocked(f"{target.host} is a blocked address")
        url = URL(target.url, encoded=True)
        if url.raw_host != target.host:
            raise HttpBlocked("the host in the URL is ambiguous")
        proxy = self._proxies.proxy_for(target)
        if proxy is not None and target.literal is None:
            await self._addresses.check_before_proxy(target.host)
        session = self._direct_session() if proxy is None else self._proxied_session()
        return await session.request(
            method,
            url,
            headers=headers,
            data=body,
            proxy=proxy,
            allow_redirects=False,
            **options,
        )

    def _direct_session(self) -> aiohttp.ClientSession:
        if self._direct is None:
            connector = self._connector(
                resolver=CheckingResolver(self._addresses),
                socket_factory=self._addresses.make_socket,
                use_dns_cache=False,
                limit_per_host=self._connections_per_host,
            )
            self._direct = open_session(connector)
        return self._direct

    def _proxied_session(self) -> aiohttp.ClientSession:
        if self._proxied is None:
            # The proxy was chosen by the administrator and may have any address.
            self._proxied = open_session(self._connector())
        return self._proxied

    def _connector(self, **options: Any) -> Connector:
        return Connector(
            limit=self._connections, keepalive_timeout=IDLE_S, ssl=self._tls or True, **options
        )

    async def _close(self) -> None:
        sessions, self._direct, self._proxied = (self._direct, self._proxied), None, None
        for session in sessions:
            if session is not None:
                await session.close()
        self._addresses.close()
