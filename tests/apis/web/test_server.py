"""Listeners on real sockets: TCP, TLS, UNIX, disconnects, and the drain."""

import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import hypercorn.config
import hypercorn.trio
import pytest
import trio
import trio.testing

from hs.apis.web.app import Application
from hs.apis.web.disconnects import HAS_EPOLL
from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.listeners import BoundListener, ListenerSpec
from hs.apis.web.server import serve_listeners
from tests.apis.web.conversation import EchoApi, echo_application
from tests.support.servers.processes import free_ports

CLIENT = frozenset(("client",))
HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
LIMITS = HttpLimits(reap_interval_s=0.02, linger_s=0.2, drain_grace_s=50, drain_head_s=50)


@asynccontextmanager
async def serving(
    *specs: ListenerSpec, app: Application | None = None, limits: HttpLimits = LIMITS
) -> AsyncIterator[list[BoundListener]]:
    """Serve on real sockets for the duration of a test."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, app or echo_application(), specs, limits)
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()


async def open_tcp(bound: BoundListener) -> trio.SocketStream:
    assert bound.port is not None
    return await trio.open_tcp_stream(bound.spec.host, bound.port)


async def read_response(stream: trio.abc.ReceiveStream, end: bytes = b"}") -> bytes:
    received = b""
    while not received.endswith(end):
        part = await stream.receive_some()
        assert part, received
        received += part
    return received


async def test_port_chosen_by_the_system_is_reported() -> None:
    async with serving(ListenerSpec(CLIENT)) as [bound]:
        assert bound.port
        assert bound.address == f"http://127.0.0.1:{bound.port}"
        async with await open_tcp(bound) as stream:
            await stream.send_all(HELLO)

            assert (await read_response(stream)).startswith(b"HTTP/1.1 200 OK")


async def test_ipv4_and_ipv6_listeners_share_a_port() -> None:
    (port,) = free_ports(1)
    specs = [ListenerSpec(CLIENT, host=host, port=port) for host in ("::", "0.0.0.0")]

    async with serving(*specs) as [six, four]:
        assert six.address == f"http://[::]:{port}"
        assert four.port == port


class SocketWithoutIpv6(socket.socket):
    """Sockets as on a machine without IPv6, which most containers are."""

    def bind(self, address: Any) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        super().bind(address)


async def test_missing_ipv6_is_ignored_if_the_port_is_bound_on_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", SocketWithoutIpv6)
    (port,) = free_ports(1)
    specs = [ListenerSpec(CLIENT, host=host, port=port) for host in ("::1", "127.0.0.1")]

    async with serving(*specs) as [four]:
        assert four.spec.host == "127.0.0.1"

    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with serving(specs[0]):
            pass


async def test_port_in_use_is_an_error() -> None:
    async with serving(ListenerSpec(CLIENT)) as [bound]:
        assert bound.port is not None
        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with serving(ListenerSpec(CLIENT, port=bound.port)):
                pass


async def test_unix_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "hs.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async with serving(ListenerSpec(CLIENT, path=str(path), mode=0o660)):
        assert path.stat().st_mode & 0o777 == 0o660
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(HELLO)
            assert b"world" in await read_response(stream)

    assert not path.exists()


async def test_unix_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    spec = ListenerSpec(CLIENT, path=str(tmp_path / "hs.sock"))
    async with serving(spec):
        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with serving(spec):
                pass


def client_tls(certificate: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.set_alpn_protocols(protocols)
    return context


@pytest.mark.parametrize("protocols", [("h2", "http/1.1"), ("http/1.1",), ()])
async def test_tls_prefers_http_1_1(certificate: Path, protocols: tuple[str, ...]) -> None:
    async with serving(ListenerSpec(CLIENT, certificate_path=str(certificate))) as [bound]:
        stream = trio.SSLStream(
            await open_tcp(bound), client_tls(certificate, *protocols), https_compatible=True
        )
        async with stream:
            await stream.send_all(HELLO)

            assert b"world" in await read_response(stream)


async def test_plain_text_on_a_tls_port_is_harmless(certificate: Path) -> None:
    async with serving(ListenerSpec(CLIENT, certificate_path=str(certificate))) as [bound]:
        async with await open_tcp(bound) as stream:
            await stream.send_all(HELLO)
            while await stream.receive_some():
                pass

        bound.reload_certificate()
        tls = trio.SSLStream(await open_tcp(bound), client_tls(certificate), https_compatible=True)
        async with tls:
            await tls.send_all(HELLO)
            assert b"world" in await read_response(tls)


async def test_http2_client_is_told_to_use_http_1_1() -> None:
    """Spec: RFC 9113, sections 3.4 and 7."""
    async with serving(ListenerSpec(CLIENT)) as [bound], await open_tcp(bound) as stream:
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        received = b""
        while part := await stream.receive_some():
            received += part

    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    [_, terminated] = connection.receive_data(received)
    assert isinstance(terminated, h2.events.ConnectionTerminated)
    assert terminated.error_code == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED


async def test_http2_is_not_negotiated(certificate: Path) -> None:
    async with serving(ListenerSpec(CLIENT, certificate_path=str(certificate))) as [bound]:
        context = client_tls(certificate, "h2")
        async with trio.SSLStream(await open_tcp(bound), context, https_compatible=True) as stream:
            await stream.do_handshake()

            assert stream.selected_alpn_protocol() is None


async def test_websocket_upgrade_is_ignored() -> None:
    """Spec: RFC 9110, section 7.8."""
    upgrade_request = HELLO.replace(
        b"\r\n\r\n",
        b"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    async with serving(ListenerSpec(CLIENT)) as [bound], await open_tcp(bound) as stream:
        for request in (upgrade_request, HELLO):
            await stream.send_all(request)

            response = await read_response(stream)

            assert response.startswith(b"HTTP/1.1 200 ")
            assert b"world" in response


@pytest.mark.skipif(not HAS_EPOLL, reason="needs Linux")
@pytest.mark.parametrize("disconnect", ["close", "half-close", "reset"])
async def test_disconnect_cancels_a_waiting_handler(disconnect: str) -> None:
    api = EchoApi()
    async with serving(ListenerSpec(CLIENT), app=echo_application(api)) as [bound]:
        stream = await open_tcp(bound)
        await stream.send_all(HELLO.replace(b"/hello", b"/wait?seconds=60"))
        await api.waiting.wait()

        if disconnect == "half-close":
            await stream.send_eof()
        elif disconnect == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if disconnect != "half-close":
            await stream.aclose()

        await api.cancelled.wait()
        await stream.aclose()


async def test_connection_is_reused_after_a_long_poll() -> None:
    async with serving(ListenerSpec(CLIENT)) as [bound], await open_tcp(bound) as stream:
        for _ in range(3):
            await stream.send_all(HELLO.replace(b"/hello", b"/wait"))
            assert (await read_response(stream)).endswith(b"{}")


async def test_client_that_does_not_read_is_disconnected() -> None:
    limits = HttpLimits(reap_interval_s=0.02, write_grace_s=0.1, write_bytes_per_s=10_000_000)
    async with serving(ListenerSpec(CLIENT), limits=limits) as [bound]:
        stream = await open_tcp(bound)
        try:
            while True:
                await stream.send_all(HELLO.replace(b"/hello", b"/large") * 20)
        except trio.BrokenResourceError:
            pass
        await stream.aclose()


async def test_hypercorn_can_serve_the_application() -> None:
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            urls: list[str] = await nursery.start(hypercorn.trio.serve, echo_application(), config)
            port = int(urls[0].rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(HELLO)

                assert b"world" in await read_response(stream)
            nursery.cancel_scope.cancel()


async def test_error_response_reaches_a_client_that_is_still_sending() -> None:
    async with serving(ListenerSpec(CLIENT)) as [bound], await open_tcp(bound) as stream:
        await stream.send_all(b"NONSENSE\r\n\r\n" + b"x" * 200_000)

        assert (await read_response(stream)).startswith(b"HTTP/1.1 400 ")


async def test_connections_are_limited() -> None:
    app = echo_application()
    limits = HttpLimits(reap_interval_s=0.02, connections=2)
    async with serving(ListenerSpec(CLIENT), app=app, limits=limits) as [bound]:
        async with await open_tcp(bound) as first, await open_tcp(bound) as second:
            for stream in (first, second):
                await stream.send_all(HELLO.replace(b"/hello", b"/wait?seconds=60"))
            while app.drain.in_flight < 2:
                await trio.testing.wait_all_tasks_blocked()
            async with await open_tcp(bound) as third:
                assert await third.receive_some() == b""


async def test_listener_serves_only_its_resources() -> None:
    async with serving(ListenerSpec(frozenset(("metrics",)))) as [bound]:
        async with await open_tcp(bound) as stream:
            await stream.send_all(HELLO)

            assert b"M_UNRECOGNIZED" in await read_response(stream)


async def test_drain_closes_idle_connections_and_finishes_requests() -> None:
    api = EchoApi()
    app = echo_application(api)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, app, [ListenerSpec(CLIENT)], LIMITS)
            [bound] = await nursery.start(serve)
            idle, busy = await open_tcp(bound), await open_tcp(bound)
            await idle.send_all(HELLO)
            await read_response(idle)
            await busy.send_all(HELLO.replace(b"/hello", b"/stubborn?seconds=1"))
            await api.waiting.wait()

            app.drain.begin()

            assert await idle.receive_some() == b""
            response = await read_response(busy)
            assert b"connection: close" in response
            assert await busy.receive_some() == b""
            await idle.aclose()
            await busy.aclose()

    assert api.finished == 1


async def test_drain_is_limited_by_the_grace_period() -> None:
    app = echo_application()
    limits = HttpLimits(reap_interval_s=0.02, drain_grace_s=0.1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, app, [ListenerSpec(CLIENT)], limits)
            [bound] = await nursery.start(serve)
            stream = await open_tcp(bound)
            await stream.send_all(HELLO.replace(b"/hello", b"/stubborn?seconds=60"))

            app.drain.begin()

            assert await stream.receive_some() == b""
            await stream.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_queued_connections_are_answered_when_the_drain_begins(
    kind: str, certificate: Path, tmp_path: Path
) -> None:
    app = echo_application()
    spec = ListenerSpec(CLIENT)
    if kind == "unix":
        spec = ListenerSpec(CLIENT, path=str(tmp_path / "s"))
    elif kind == "tls":
        spec = ListenerSpec(CLIENT, certificate_path=str(certificate))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            [bound] = await nursery.start(partial(serve_listeners, app, [spec], LIMITS))
            sockets = [connect_nowait(bound) for _ in range(20)]
            if kind != "tls":
                for sock in sockets:
                    sock.sendall(HELLO)
            # Nothing was awaited since they connected, so all of them are in the accept queue.

            app.drain.begin()

            for sock in sockets:
                stream = await client_stream(sock, kind == "tls")
                if kind == "tls":
                    await stream.send_all(HELLO)
                response = await read_response(stream)
                assert response.startswith(b"HTTP/1.1 200 OK")
                assert b"connection: close" in response
                await trio.aclose_forcefully(stream)


def connect_nowait(bound: BoundListener) -> socket.socket:
    """Connect without an await, so that the server cannot run in between."""
    if bound.spec.path is not None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(bound.spec.path)
        return sock
    return socket.create_connection((bound.spec.host, bound.port), 60)


async def client_stream(sock: socket.socket, tls: bool) -> trio.abc.Stream:
    sock.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    if not tls:
        return stream
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)


async def test_request_that_arrived_before_the_drain_is_answered() -> None:
    app = echo_application()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, app, [ListenerSpec(CLIENT)], LIMITS)
            [bound] = await nursery.start(serve)
            connection = await open_tcp(bound)
            await connection.send_all(HELLO)
            await read_response(connection)
            await trio.testing.wait_all_tasks_blocked()
            with socket.socket(fileno=os.dup(connection.socket.fileno())) as duplicate:
                duplicate.send(HELLO)

            app.drain.begin()

            assert b"connection: close" in await read_response(connection)
            await connection.aclose()


async def test_silent_new_connection_does_not_delay_the_drain() -> None:
    app = echo_application()
    limits = HttpLimits(reap_interval_s=0.02, drain_grace_s=600, drain_head_s=0.05)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, app, [ListenerSpec(CLIENT)], limits)
            [bound] = await nursery.start(serve)
            silent = await open_tcp(bound)

            app.drain.begin()

            assert await silent.receive_some() == b""
            await silent.aclose()
