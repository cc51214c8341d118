"""The PeerTransport of all requests: only to permitted servers, and not to failing ones."""

from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from typing import Final

import attrs

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.lib.fairness.held_slots import left_slot
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    PeerTransport,
    StreamedResponse,
)
from hs.services.federation_client.retry_after import LIMITED, retry_after_s
from hs.services.federation_client.server_backoff import ServerBackoff

# The responses of a reverse proxy whose server is down.
DOWN: Final = frozenset((502, 503, 504))


@attrs.frozen(eq=False)
class GatedTransport:
    """Passes requests on to the network; `permitted` None permits all servers.

    Requests of clients and servers leave their slot of a gate meanwhile.
    """

    _network: PeerTransport
    _backoff: ServerBackoff
    _permitted: Set[ServerName] | None

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request and return the response. Raises: RemoteFault."""
        await self._check(request)
        try:
            with left_slot():
                response = await self._network.send(request)
        except RemoteFault as fault:
            await self._note_fault(request.server, fault)
            raise
        await self._note_response(request.server, response)
        return response

    @asynccontextmanager
    async def stream(self, request: PeerRequest) -> AsyncIterator[StreamedResponse]:
        """Open a response without reading its body. Raises: RemoteFault."""
        await self._check(request)
        try:
            with left_slot():
                async with self._network.stream(request) as response:
                    head = PeerResponse(response.status, response.headers, b"")
                    await self._note_response(request.server, head)
                    yield response
        except RemoteFault as fault:
            if fault.server == request.server:
                await self._note_fault(request.server, fault)
            raise

    async def _check(self, request: PeerRequest) -> None:
        server = request.server
        if self._permitted is not None and server not in self._permitted:
            raise RemoteFault(server, "it is not in federation_domain_whitelist", retry=False)
        if not request.ignores_backoff:
            await self._backoff.check(server)

    async def _note_fault(self, server: ServerName, fault: RemoteFault) -> None:
        # A server with an error in its response has responded.
        if fault.retry and fault.error is None:
            await self._backoff.failed(server)

    async def _note_response(self, server: ServerName, response: PeerResponse) -> None:
        wait_s = retry_after_s(response)
        if response.status in DOWN:
            await self._backoff.failed(server)
        elif wait_s:
            await self._backoff.limited(server, wait_s)
        elif response.status != LIMITED:
            await self._backoff.responded(server)
