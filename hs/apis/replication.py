"""RPC calls from the other processes, on listeners with the resource `replication`."""

from typing import Protocol

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response
from hs.apis.web.request import header, path, raw_body
from hs.apis.web.route import route

# Large enough for a batch of events of a large room, and for the rows that fill a gap.
MAX_CALL_BYTES = 64 * 1024 * 1024


class RpcHandler(Protocol):
    """Checks the shared secret and handles RPC calls."""

    async def handle(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Return status and body of the response; header names are in lower case."""
        ...


@attrs.frozen
class RpcRequest:
    """POST /_synapse/replication/rpc/{protocol}/{method}."""

    protocol: str = path()
    method: str = path()
    body: bytes = raw_body()
    authorization: str = header("authorization", default="")
    call: str = header("x-hs-call", default="")
    timeout: str = header("x-hs-timeout", default="30")
    request_id: str = header("x-request-id", default="-")


@attrs.frozen
class ReplicationApi:
    """The endpoint of RPC calls between the processes of this server."""

    rpc_handler: RpcHandler

    @route(
        "POST",
        "/_synapse/replication/rpc/{protocol}/{method}",
        auth=NONE,
        max_body_bytes=MAX_CALL_BYTES,
    )
    async def call(self, request: RpcRequest) -> Response:
        """Handle one call."""
        status, body = await self.rpc_handler.handle(
            f"/_synapse/replication/rpc/{request.protocol}/{request.method}",
            request.body,
            {
                "authorization": request.authorization,
                "x-hs-call": request.call,
                "x-hs-timeout": request.timeout,
                "x-request-id": request.request_id,
            },
        )
        return Response(status, {"content-type": "application/octet-stream"}, body)
