"""RPC calls from the other processes, on listeners with the resource `replication`."""

from collections.abc import AsyncIterator
from typing import Protocol

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response
from hs.apis.web.request import body_stream, header, path
from hs.apis.web.route import route
from hs.core.errors import TooLarge
from hs.lib.fairness.turns import Turns

# Large enough for the state of a large room, and for the rows that fill a gap.
MAX_CALL_BYTES = 112 * 1024 * 1024
# Callers without the secret must not delay those that have it.
REFUSALS_OF_PASS = 8


class RpcHandler(Protocol):
    """Checks the shared secret and handles RPC calls."""

    def admits(self, authorization: str) -> bool:
        """Return whether a caller has the shared secret."""
        ...

    async def handle(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Return status and body of the response; header names are in lower case."""
        ...


@attrs.frozen
class RpcRequest:
    """POST /_synapse/replication/rpc/{protocol}/{method}."""

    protocol: str = path()
    method: str = path()
    parts: AsyncIterator[bytes] = body_stream()
    authorization: str = header("authorization", default="")
    call: str = header("x-hs-call", default="")
    timeout: str = header("x-hs-timeout", default="30")
    request_id: str = header("x-request-id", default="-")


@attrs.frozen
class ReplicationApi:
    """The endpoint of RPC calls between the processes of this server."""

    rpc_handler: RpcHandler
    _refusals: Turns[None] = attrs.field(factory=lambda: Turns(REFUSALS_OF_PASS), init=False)

    @route("POST", "/_synapse/replication/rpc/{protocol}/{method}", auth=NONE)
    async def call(self, request: RpcRequest) -> Response:
        """Handle one call; its body, which may be large, is read only from other processes."""
        if not self.rpc_handler.admits(request.authorization):
            await self._refusals.take(None)
            return Response(401)
        status, body = await self.rpc_handler.handle(
            f"/_synapse/replication/rpc/{request.protocol}/{request.method}",
            await _read(request.parts),
            {
                "authorization": request.authorization,
                "x-hs-call": request.call,
                "x-hs-timeout": request.timeout,
                "x-request-id": request.request_id,
            },
        )
        return Response(status, {"content-type": "application/octet-stream"}, body)


async def _read(parts: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > MAX_CALL_BYTES:
            raise TooLarge(f"A call must not be larger than {MAX_CALL_BYTES} bytes")
    return bytes(body)
