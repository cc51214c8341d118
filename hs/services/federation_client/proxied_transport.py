"""Requests to other servers through those processes that may send them.

With `outbound_federation_restricted_to`, only the named processes open connections to other
servers. The others have a ProxiedTransport, which asks a named process by RPC.

Rules:

- The requests to a server go through the process to which its name belongs; through the next one if
  that process cannot be reached.
- A body that is received while it is read stays at the process that has opened it. It is asked for
  part by part, and given up if nobody asks.
- That one of our processes is down says nothing about the other server.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, Protocol, TypeVar

import attrs
import trio

from hs.core.errors import MatrixError, RemoteFault
from hs.core.ids import ServerName
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.rpc import rpc
from hs.repl.slots.assignment import shard_of
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    PeerTransport,
    StreamedResponse,
)

REQUEST_TIMEOUT_S: Final = 600.0
MAX_OPEN: Final = 200
IDLE_S: Final = 60.0
"""Time after which a response is closed of which no part was asked for."""

CLOSE_S: Final = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


@attrs.frozen
class OpenedResponse:
    """The head of a response whose body is read part by part, by its handle."""

    handle: str
    status: int
    headers: dict[str, str]


class PeerRequests(Protocol):
    """Sends requests to other servers, for processes that may not."""

    @rpc(timeout_s=REQUEST_TIMEOUT_S, catch_up=False)
    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request and return the response. Raises: RemoteFault."""
        ...

    @rpc(timeout_s=REQUEST_TIMEOUT_S, catch_up=False)
    async def open(self, request: PeerRequest) -> OpenedResponse:
        """Open a response without reading its body. Raises: RemoteFault; MatrixError 503."""
        ...

    @rpc(timeout_s=REQUEST_TIMEOUT_S, catch_up=False)
    async def read(self, handle: str) -> bytes:
        """Return the next part of a body; empty at its end. Raises: RemoteFault, MatrixError."""
        ...

    @rpc(catch_up=False)
    async def close(self, handle: str) -> None:
        """Close a response, whether or not its body was read."""
        ...


@attrs.define(eq=False)
class _Opened:
    """A response that is being received; `fault` ended it early."""

    parts: trio.MemoryReceiveChannel[bytes]
    scope: trio.CancelScope
    fault: RemoteFault | None = None


@attrs.define(eq=False)
class OwnPeerRequests:
    """The PeerRequests of a process that may send requests."""

    _network: PeerTransport
    _opened: dict[str, _Opened] = attrs.Factory(dict)
    _nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive what is opened, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request; see PeerRequests."""
        return await self._network.send(request)

    async def open(self, request: PeerRequest) -> OpenedResponse:
        """Open a response; see PeerRequests."""
        if self._nursery is None or len(self._opened) >= MAX_OPEN:
            raise MatrixError("M_UNKNOWN", 503, "Too many responses of other servers are open")
        opened: OpenedResponse = await self._nursery.start(self._receive, request)
        return opened

    async def read(self, handle: str) -> bytes:
        """Return the next part of a body; see PeerRequests."""
        opened = self._opened.get(handle)
        if opened is None:
            raise MatrixError("M_UNKNOWN", 503, "The response of the other server was closed")
        try:
            return await opened.parts.receive()
        except trio.EndOfChannel:
            if opened.fault is not None:
                raise opened.fault from None
            return b""

    async def close(self, handle: str) -> None:
        """Close a response; see PeerRequests."""
        opened = self._opened.pop(handle, None)
        if opened is not None:
            opened.scope.cancel()
            opened.parts.close()

    async def _receive(
        self, request: PeerRequest, *, task_status: trio.TaskStatus[OpenedResponse]
    ) -> None:
        """Open a response and pass its parts on as they are asked for."""
        handle = secrets.token_hex(16)
        sending, receiving = trio.open_memory_channel[bytes](0)
        opened: _Opened | None = None
        try:
            with trio.CancelScope() as scope, sending:
                async with self._network.stream(request) as response:
                    opened = self._opened[handle] = _Opened(receiving, scope)
                    head = OpenedResponse(handle, response.status, dict(response.headers))
                    task_status.started(head)
                    async for part in response.parts:
                        with trio.move_on_after(IDLE_S) as idle:
                            await sending.send(part)
                        if idle.cancelled_caught:
                            await self.close(handle)
        except Exception as error:
            if opened is None:
                raise
            if not isinstance(error, RemoteFault):
                log.exception("a response of %s could not be received", request.server)
                error = RemoteFault(request.server, "its response could not be received")
            opened.fault = error
        if opened is None:
            return
        # The end of the body is asked for as well.
        with trio.move_on_after(IDLE_S) as opened.scope:
            if handle in self._opened:
                await trio.sleep_forever()
        await self.close(handle)


@attrs.frozen(eq=False)
class ProxiedTransport:
    """The PeerTransport of a process that may not send requests itself.

    `processes` are those that may, in the order of the configuration.
    """

    _processes: Mapping[str, PeerRequests]

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request and return the response. Raises: RemoteFault."""
        _, response = await self._ask(request, lambda process: process.send(request))
        return response

    @asynccontextmanager
    async def stream(self, request: PeerRequest) -> AsyncIterator[StreamedResponse]:
        """Open a response without reading its body. Raises: RemoteFault."""
        process, opened = await self._ask(request, lambda process: process.open(request))
        try:
            async with aclosing(_parts(process, request.server, opened.handle)) as parts:
                yield StreamedResponse(opened.status, opened.headers, parts)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await _close(process, opened.handle)

    async def _ask(
        self, request: PeerRequest, ask: Callable[[PeerRequests], Awaitable[T]]
    ) -> tuple[PeerRequests, T]:
        """Return the first process that can be reached, and its reply. Raises: RemoteFault."""
        fault: Exception | None = None
        for name in self._order(request.server):
            process = self._processes[name]
            try:
                return process, await ask(process)
            except (RpcUnavailable, RpcFailed, MatrixError) as failure:
                fault = failure
        raise _not_sent(request.server, fault)

    def _order(self, server: ServerName) -> Sequence[str]:
        names = list(self._processes)
        first = shard_of(server, len(names))
        return [*names[first:], *names[:first]]


async def _parts(
    process: PeerRequests, server: ServerName, handle: str
) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            part = await process.read(handle)
        except (RpcFailed, MatrixError) as failure:
            raise _not_sent(server, failure) from failure
        if not part:
            return
        yield part


async def _close(process: PeerRequests, handle: str) -> None:
    try:
        await process.close(handle)
    except (RpcFailed, MatrixError):
        return  # it closes the response by itself, after IDLE_S


def _not_sent(server: ServerName, cause: Exception | None) -> RemoteFault:
    # Without `retry`, the server is not taken for one that does not respond.
    return RemoteFault(server, f"no process could send a request to it: {cause}", retry=False)
