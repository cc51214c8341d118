"""A small HTTP server for tests of RPC over sockets, which can lose replies."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import h11
import trio

from hs.repl.ownership import Location
from hs.repl.rpc_http import RpcEndpoint


@attrs.define(eq=False)
class HttpServer:
    """A server of an RPC endpoint; instead of the next `lose` replies it closes the connection."""

    endpoint: RpcEndpoint
    lose: int = 0
    connections: int = 0
    location: Location = Location()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection."""
        self.connections += 1
        conn = h11.Connection(h11.SERVER)
        async with stream:
            with suppress(trio.BrokenResourceError):
                while await self._serve_request(conn, stream):
                    conn.start_next_cycle()

    async def _serve_request(self, conn: h11.Connection, stream: trio.abc.Stream) -> bool:
        path, headers, body = "", {}, b""
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                conn.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                path = event.target.decode()
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        status, reply = await self.endpoint.handle(path, body, headers)
        if self.lose:
            self.lose -= 1
            return False
        head = h11.Response(status_code=status, headers=[("content-length", str(len(reply)))])
        parts = [conn.send(head), conn.send(h11.Data(reply)), conn.send(h11.EndOfMessage())]
        await stream.send_all(b"".join(part for part in parts if part))
        return True


@asynccontextmanager
async def serving(
    endpoint: RpcEndpoint, path: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpServer]:
    """Serve an endpoint on a local port, or on a Unix socket if a path is given."""
    server = HttpServer(endpoint)
    listener: trio.SocketListener
    if path is None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        server.location = Location("127.0.0.1", port, tls=tls is not None)
    else:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(path)
        sock.listen()
        listener = trio.SocketListener(sock)
        server.location = Location(path=path)
    served: trio.SocketListener | trio.SSLListener[trio.SocketStream] = listener
    if tls is not None:
        served = trio.SSLListener(listener, tls, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [served])
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
