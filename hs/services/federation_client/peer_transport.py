"""The interface between requests to other servers and the network."""

from collections.abc import AsyncIterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName


@attrs.frozen(kw_only=True)
class PeerRequest:
    """A request to another server, complete and signed.

    `server` is the name from which the address is discovered; `uri` is the path with its query
    string. `timeout_s` bounds the whole exchange, `max_bytes` the body of the response.
    """

    server: ServerName
    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    max_bytes: int


@attrs.frozen
class PeerResponse:
    """A response, whatever its status; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.frozen
class StreamedResponse:
    """A response whose body is received while `parts` are iterated."""

    status: int
    headers: Mapping[str, str]
    parts: AsyncIterable[bytes]


class PeerTransport(Protocol):
    """Finds the address of a server and sends requests to it."""

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request and return the response. Raises: RemoteFault, if there is none."""
        ...

    def stream(self, request: PeerRequest) -> AbstractAsyncContextManager[StreamedResponse]:
        """Open a response without reading its body. Raises: RemoteFault."""
        ...


class UnreachablePeers:
    """A PeerTransport without a network: no server can be reached."""

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Raise RemoteFault."""
        raise _unreachable(request)

    def stream(self, request: PeerRequest) -> AbstractAsyncContextManager[StreamedResponse]:
        """Raise RemoteFault."""
        raise _unreachable(request)


def _unreachable(request: PeerRequest) -> RemoteFault:
    return RemoteFault(request.server, "other servers cannot be reached from this process")
