"""The door for calls of our other processes, on listeners with the resource `replication`."""

from typing import Protocol

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response
from hs.apis.web.request import header, path, raw_body
from hs.apis.web.route import route

# A batch of events of a large room, or rows that a reader missed.
MAX_CALL_BYTES = 64 * 1024 * 1024


class CallAnswerer(Protocol):
    """Checks the secret and answers calls."""

    async def handle(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Give status and body; header names are in lower case."""
        ...


@attrs.frozen
class CallRequest:
    """One call, as the caller's side wrote it."""

    protocol: str = path()
    method: str = path()
    body: bytes = raw_body()
    authorization: str = header("authorization", default="")
    call: str = header("x-hs-call", default="")
    timeout: str = header("x-hs-timeout", default="30")
    request_id: str = header("x-request-id", default="-")


@attrs.frozen
class ReplicationApi:
    """Remote calls between the processes of one server."""

    answerer: CallAnswerer

    @route(
        "POST",
        "/_synapse/replication/rpc/{protocol}/{method}",
        auth=NONE,
        max_body_bytes=MAX_CALL_BYTES,
    )
    async def call(self, request: CallRequest) -> Response:
        """Answer one call."""
        status, body = await self.answerer.handle(
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
