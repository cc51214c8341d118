"""The web server with the endpoint of calls, for tests over sockets; it can lose replies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from hs.apis.replication import CallStream, ReplicationApi
from hs.apis.web.app import Application
from hs.apis.web.drain import Drain
from hs.apis.web.listeners import BoundListener, ListenerSpec
from hs.apis.web.route import collect
from hs.apis.web.server import serve_listeners
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.frames import FrameKind, FrameParser
from hs.repl.ownership import Location
from tests.support.servers.certificates import Certificates
from tests.support.web import Tokens


@attrs.define(eq=False)
class CallServer:
    """A server of an endpoint; instead of the next `lose` replies it closes the connection.

    If it `closes`, it does so at once, and reads nothing.
    """

    endpoint: RpcEndpoint
    lose: int = 0
    closes: bool = False
    connections: int = 0
    location: Location = Location()
    drain: Drain = attrs.Factory(Drain)

    def admits(self, authorization: str) -> bool:
        """Return whether the endpoint admits a caller."""
        return self.endpoint.admits(authorization)

    async def serve(self, caller: str, stream: CallStream, stopping: trio.Event) -> None:
        """Serve one connection."""
        self.connections += 1
        if self.closes:
            return
        await self.endpoint.serve(caller, _LossyStream(self, stream), stopping)


@attrs.frozen(eq=False)
class _LossyStream:
    _server: CallServer
    _stream: CallStream

    async def read(self) -> bytes:
        return await self._stream.read()

    async def write(self, payload: bytes) -> None:
        kinds = [frame.kind for frame in FrameParser().feed(payload)]
        if self._server.lose and FrameKind.REPLY in kinds:
            self._server.lose -= 1
            raise trio.BrokenResourceError("a reply was lost")
        await self._stream.write(payload)


@asynccontextmanager
async def serving(
    endpoint: RpcEndpoint, path: str | None = None, tls: Certificates | None = None
) -> AsyncIterator[CallServer]:
    """Serve an endpoint on a local port, or on a Unix socket if a path is given."""
    server = CallServer(endpoint)
    api = ReplicationApi(server, server.drain)
    application = Application(collect(api), Tokens(), drain=server.drain)
    spec = ListenerSpec(
        resources=frozenset(["replication"]),
        host="" if path else "127.0.0.1",
        path=path,
        certificate_path=str(tls.certificate) if tls else None,
        private_key_path=str(tls.key) if tls else None,
    )
    async with trio.open_nursery() as nursery:
        bound: list[BoundListener] = await nursery.start(serve_listeners, application, [spec])
        server.location = Location(path=path)
        if path is None:
            port = bound[0].sock.getsockname()[1]
            server.location = Location("127.0.0.1", port, tls=tls is not None)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
