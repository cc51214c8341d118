"""The PeerTransport over the network: discovery, TLS, and short retries.

A request that cannot have been received, or that may be received twice, is tried again after a
short delay. Of several addresses, the next one is tried if there is no connection to one of them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Final, TypeVar

import attrs
import trio

from hs.core.errors import RemoteFault
from hs.lib.backoff import Backoff
from hs.lib.http_client import (
    HttpBlocked,
    HttpFault,
    HttpNotConnected,
    HttpResponse,
    HttpUnreachable,
    ResponseTooLarge,
)
from hs.lib.http_client.directed import DirectedHttpClient, DirectedRequest
from hs.services.federation_client.discovery import (
    Delegations,
    ServerAddress,
    ServerRoute,
    discover,
)
from hs.services.federation_client.peer_tls import PeerTls
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    StreamedResponse,
)
from hs.settings.sections.federation import PeerRequestSettings

IDEMPOTENT: Final = frozenset(("GET", "PUT", "DELETE"))
TEMPORARY: Final = frozenset((502, 503, 504))
FIRST_SHORT_DELAY_S: Final = 0.5
MAX_ADDRESSES: Final = 4
DISCOVERY_S: Final = 25.0

T = TypeVar("T")


@attrs.frozen(eq=False)
class NetworkTransport:
    """Sends requests to other servers over HTTPS."""

    _delegations: Delegations
    _http: DirectedHttpClient
    _tls: PeerTls
    _user_agent: str
    _settings: PeerRequestSettings
    _delays: Backoff = attrs.field(init=False)

    @_delays.default
    def _make_delays(self) -> Backoff:
        return Backoff(FIRST_SHORT_DELAY_S, self._settings.max_short_retry_delay / 1000)

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request and return the response. Raises: RemoteFault, if there is none.

        `timeout_s` bounds all attempts together.
        """
        route: ServerRoute | None = None
        # A single scope, as each costs more than the encryption of a request.
        with trio.CancelScope(deadline=trio.current_time() + DISCOVERY_S) as scope:
            route = await discover(request.server, self._delegations)
            scope.deadline = trio.current_time() + request.timeout_s
            response = await self._send_repeatedly(request, route)
            return PeerResponse(response.status, response.headers, response.body)
        raise _no_address(request) if route is None else _timed_out(request)

    @asynccontextmanager
    async def stream(self, request: PeerRequest) -> AsyncIterator[StreamedResponse]:
        """Open a response without reading its body. Raises: RemoteFault."""
        route = await self._route(request)
        try:
            async with AsyncExitStack() as stack:
                response = await self._try_addresses(
                    request,
                    route,
                    lambda directed: stack.enter_async_context(self._http.stream(directed)),
                )
                parts = await stack.enter_async_context(aclosing(_parts(request, response.parts)))
                yield StreamedResponse(response.status, response.headers, parts)
        except HttpFault as fault:
            raise _remote_fault(request, fault) from None

    async def _route(self, request: PeerRequest) -> ServerRoute:
        """Find the addresses, which takes a while the first time. Raises: RemoteFault.

        This has a time of its own. Otherwise a host that ignores requests for its well-known file
        would use up that of short requests each time, and its server would never be asked.
        """
        with trio.move_on_after(DISCOVERY_S):
            return await discover(request.server, self._delegations)
        raise _no_address(request)

    async def _send_repeatedly(self, request: PeerRequest, route: ServerRoute) -> HttpResponse:
        retries, failures = self._settings.max_short_retries, 0
        is_idempotent = request.method in IDEMPOTENT
        while True:
            try:
                response = await self._try_addresses(request, route, self._http.send)
                if not (is_idempotent and response.status in TEMPORARY and failures < retries):
                    return response
            except HttpUnreachable as fault:
                may_repeat = is_idempotent or isinstance(fault, HttpNotConnected)
                if not (may_repeat and failures < retries):
                    raise _remote_fault(request, fault) from None
            except HttpFault as fault:
                raise _remote_fault(request, fault) from None
            failures += 1
            await trio.sleep(self._delays.delay_s(failures))
            route = await self._route(request)

    async def _try_addresses(
        self,
        request: PeerRequest,
        route: ServerRoute,
        attempt: Callable[[DirectedRequest], Awaitable[T]],
    ) -> T:
        """Return the result for the first address that can be connected to. Raises: HttpFault."""
        addresses = route.addresses[:MAX_ADDRESSES]
        for address in addresses[:-1]:
            with suppress(HttpNotConnected):
                return await attempt(self._directed(request, route, address))
        return await attempt(self._directed(request, route, addresses[-1]))

    def _directed(
        self, request: PeerRequest, route: ServerRoute, address: ServerAddress
    ) -> DirectedRequest:
        headers = {"user-agent": self._user_agent, **request.headers, "host": route.host_header}
        return DirectedRequest(
            method=request.method,
            host=address.host,
            port=address.port,
            certificate_name=route.certificate_name,
            uri=request.uri,
            headers=headers,
            body=request.body,
            timeout_s=request.timeout_s,
            max_bytes=request.max_bytes,
            tls=self._tls.context(route.certificate_name),
        )


async def _parts(request: PeerRequest, parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for part in parts:
            yield part
    except HttpFault as fault:
        raise _remote_fault(request, fault) from None


def _remote_fault(request: PeerRequest, fault: HttpFault) -> RemoteFault:
    is_final = isinstance(fault, HttpBlocked | ResponseTooLarge)
    return RemoteFault(request.server, fault.message, retry=not is_final)


def _no_address(request: PeerRequest) -> RemoteFault:
    return RemoteFault(request.server, f"no address was found in {DISCOVERY_S:g} s")


def _timed_out(request: PeerRequest) -> RemoteFault:
    return RemoteFault(request.server, f"timed out after {request.timeout_s:g} s")
