"""Connections of the other processes, on listeners with the resource `replication`."""

from typing import Protocol

import attrs
import trio

from hs.apis.web.auth import NONE
from hs.apis.web.drain import Drain
from hs.apis.web.http_request import ClientDisconnected
from hs.apis.web.render import Response, Upgrade
from hs.apis.web.request import header
from hs.apis.web.route import route
from hs.apis.web.transport import Transport
from hs.core.errors import MatrixError
from hs.lib.fairness.turns import Turns

PROTOCOL = "hs-calls"
# Callers without the secret must not delay those that have it.
REFUSALS_OF_PASS = 8


class CallStream(Protocol):
    """The bytes of a connection."""

    async def read(self) -> bytes:
        """Wait for bytes and return them; b"" at the end."""
        ...

    async def write(self, payload: bytes) -> None:
        """Send everything. Raises: trio.BrokenResourceError."""
        ...


class CallHandler(Protocol):
    """Checks the shared secret and executes the calls of a connection."""

    def admits(self, authorization: str) -> bool:
        """Return whether a caller has the shared secret."""
        ...

    async def serve(self, caller: str, stream: CallStream, stopping: trio.Event) -> None:
        """Execute the calls that arrive, until the connection closes or `stopping` is set."""
        ...


@attrs.frozen
class ConnectRequest:
    """GET /_synapse/replication/calls."""

    authorization: str = header("authorization", default="")
    connection: str = header("connection", default="")
    caller: str = header("x-hs-caller", default="")


@attrs.frozen
class ReplicationApi:
    """The endpoint at which the other processes of this server open their connections."""

    _handler: CallHandler
    _drain: Drain
    _refusals: Turns[None] = attrs.field(factory=lambda: Turns(REFUSALS_OF_PASS), init=False)

    @route("GET", "/_synapse/replication/calls", auth=NONE)
    async def connect(self, request: ConnectRequest) -> Response:
        """Switch to the protocol of calls."""
        if not self._handler.admits(request.authorization):
            await self._refusals.take(None)
            return Response(401)
        if request.connection.lower() != "upgrade" or not request.caller:
            raise MatrixError(
                "M_UNKNOWN", 426, f"This endpoint switches to the protocol {PROTOCOL}"
            )

        async def serve(transport: Transport) -> None:
            await self._handler.serve(request.caller, _Calls(transport), self._drain.started)

        return Response(101, {}, Upgrade(PROTOCOL, serve))


@attrs.frozen(eq=False)
class _Calls:
    _transport: Transport

    async def read(self) -> bytes:
        return await self._transport.read()

    async def write(self, payload: bytes) -> None:
        sent = self._transport.write_nowait(payload)
        if sent == len(payload):
            return
        try:
            await self._transport.write(memoryview(payload)[sent:])
        except ClientDisconnected as error:
            raise trio.BrokenResourceError("the connection broke") from error
