"""The interface between requests to other servers and the network."""

from collections.abc import AsyncIterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from hs.core.ids import ServerName


@attrs.frozen(kw_only=True)
class PeerRequest:
    """A request to another server, complete and signed.

    `server` is the name from which the address is discovered; `uri` is the path with its query
    string. `timeout_s` bounds the whole exchange, but not the discovery of the address, which is
    bounded and cached; `max_bytes` bounds the body of the response. A request that ignores the
    backoff is sent even if the server did not respond a short time ago.
    """

    server: ServerName
    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    max_bytes: int
    ignores_backoff: bool = False


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
