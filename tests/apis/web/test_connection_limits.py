"""Limits per client on connections, bodies and unread responses, on real sockets."""

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hs.apis.web.auth import FEDERATION, NONE, OPTIONAL, USER
from hs.apis.web.client_address import TrustedProxies
from hs.apis.web.connection_counts import ConnectionCounts
from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.listeners import ListenerSpec
from hs.apis.web.request import raw_body
from hs.apis.web.route import collect, route
from hs.apis.web.server import Server
from tests.apis.web.conversation import EchoApi, echo_application
from tests.apis.web.test_server import CLIENT, HELLO, open_tcp, read_response, serving

FORWARDED = ListenerSpec(CLIENT, x_forwarded=True)
WAIT = b"GET /wait?seconds=60 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.%d\r\n\r\n"


def limits(**more: Any) -> HttpLimits:
    """Return limits under which loopback addresses count."""
    return attrs.evolve(HttpLimits(reap_interval_s=0.02, unlimited_networks=()), **more)


def test_ipv6_network_counts_as_one_source() -> None:
    counts = ConnectionCounts(1, ["10.0.0.0/8"])
    first, second = (counts.counted_source(f"2001:db8::{number}") for number in (1, 2))
    assert first is not None
    assert second is not None

    assert counts.enter(first)
    assert not counts.enter(second)
    counts.leave(first)
    assert counts.enter(second)
    assert counts.counted_source("10.1.2.3") is None


async def test_connections_of_one_address_are_limited() -> None:
    async with serving(ListenerSpec(CLIENT), limits=limits(connections_per_source=2)) as [bound]:
        async with await open_tcp(bound) as first, await open_tcp(bound) as second:
            for stream in (first, second):
                await stream.send_all(HELLO)
                await read_response(stream)
            async with await open_tcp(bound) as third:
                assert await third.receive_some() == b""
        while True:
            async with await open_tcp(bound) as later:
                await later.send_all(HELLO)
                if await later.receive_some():
                    break


async def test_connections_of_unlimited_addresses_and_proxies_are_not_limited() -> None:
    for spec, networks in ((ListenerSpec(CLIENT), ("127.0.0.0/8",)), (FORWARDED, ())):
        few = limits(connections_per_source=1, unlimited_networks=networks)
        async with serving(spec, limits=few) as [bound]:
            async with await open_tcp(bound) as first, await open_tcp(bound) as second:
                for stream in (first, second):
                    await stream.send_all(HELLO)
                    assert b"world" in await read_response(stream)


async def test_requests_of_one_client_behind_a_proxy_are_limited() -> None:
    api = EchoApi()
    few = limits(connections_per_source=1)
    async with serving(FORWARDED, app=echo_application(api), limits=few) as [bound]:
        async with await open_tcp(bound) as first:
            await first.send_all(WAIT % 1)
            await api.waiting.wait()
            async with await open_tcp(bound) as second:
                await second.send_all(WAIT % 1)
                rejected = await read_response(second)
                await second.send_all(HELLO.replace(b"Host", b"X-Forwarded-For: 192.0.2.2\r\nHost"))
                assert b"world" in await read_response(second)
        await api.cancelled.wait()

    assert rejected.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: " in rejected


async def test_oldest_idle_connection_makes_room_for_a_new_one() -> None:
    api = EchoApi()
    few = limits(connections=3)
    async with serving(ListenerSpec(CLIENT), app=echo_application(api), limits=few) as [bound]:
        busy, *idle = [await open_tcp(bound) for _ in range(3)]
        await busy.send_all(WAIT % 1)
        await api.waiting.wait()
        for stream in idle:
            await stream.send_all(HELLO)
            await read_response(stream)

        async with await open_tcp(bound) as new:
            await new.send_all(HELLO)
            assert b"world" in await read_response(new)

        assert await idle[0].receive_some() == b""
        await idle[1].send_all(HELLO)
        assert b"world" in await read_response(idle[1])
        assert not api.cancelled.is_set()
        for stream in (busy, *idle):
            await stream.aclose()


@pytest.mark.parametrize(
    "begun", [b"", b"GET /he", b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12"]
)
async def test_clients_that_never_finish_their_request_make_room(begun: bytes) -> None:
    async with serving(ListenerSpec(CLIENT), limits=limits(connections=2)) as [bound]:
        slow = [await open_tcp(bound) for _ in range(4)]
        for stream in slow:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(begun)
        for number in range(4):
            async with await open_tcp(bound) as new:
                await new.send_all(HELLO)
                assert b"world" in await read_response(new), number
        for stream in slow:
            await stream.aclose()


async def test_tls_handshakes_that_never_end_make_room(certificate: Path) -> None:
    spec = ListenerSpec(CLIENT, certificate_path=str(certificate))
    async with serving(spec, limits=limits(connections=2)) as [bound]:
        slow = [await open_tcp(bound) for _ in range(4)]
        for _ in range(4):
            stream = trio.SSLStream(await open_tcp(bound), trusting(), https_compatible=True)
            async with stream:
                await stream.send_all(HELLO)
                assert b"world" in await read_response(stream)
        for silent in slow:
            await silent.aclose()


def trusting() -> ssl.SSLContext:
    """Return the context of a client that trusts every certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def post(size: int) -> bytes:
    """Return the head of a request with a body."""
    return b"POST /upload-json HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size


@attrs.frozen
class BodyRequest:
    """A body that is read before the handler runs."""

    content: bytes = raw_body()


@attrs.frozen
class BodyApi:
    """Endpoints that take a body."""

    @route("POST", "/upload-json", auth=NONE, max_body_bytes=1 << 20)
    async def upload(self, request: BodyRequest) -> int:
        return len(request.content)

    @route("POST", "/anonymous", auth=NONE)
    @route("POST", "/optional", auth=OPTIONAL)
    @route("POST", "/user", auth=USER)
    @route("POST", "/federation", auth=FEDERATION)
    async def other(self, request: BodyRequest) -> int:
        return len(request.content)


def test_body_without_authentication_is_at_most_64_kib() -> None:
    sizes = {endpoint.paths[0]: endpoint.max_body_bytes for endpoint in collect(BodyApi())}

    assert sizes == {
        "/upload-json": 1 << 20,
        "/anonymous": 1 << 16,
        "/optional": 1 << 16,
        "/user": 1 << 20,
        "/federation": 1 << 20,
    }


async def test_client_that_sends_many_bodies_slowly_loses_the_oldest() -> None:
    app = echo_application(BodyApi())
    small = limits(buffered_bytes=400_000)  # 100,000 for each source
    async with serving(FORWARDED, app=app, limits=small) as [bound]:
        streams = []
        for source in (1, 2, 2, 2):
            stream = await open_tcp(bound)
            head = post(60_000).replace(b"Host", b"X-Forwarded-For: 192.0.2.%d\r\nHost" % source)
            await stream.send_all(head + b"x" * 40_000)
            streams.append(stream)
        # The second connection of the second source fits, the third does not.
        assert await streams[1].receive_some() == b""

        for stream in (streams[0], *streams[2:]):
            await stream.send_all(b"x" * 20_000)
            assert (await read_response(stream, b"60000")).startswith(b"HTTP/1.1 200 ")
        for stream in streams:
            await stream.aclose()


async def test_unfinished_heads_are_counted() -> None:
    async with serving(ListenerSpec(CLIENT), limits=limits(buffered_bytes=160_000)) as [bound]:
        first, second = await open_tcp(bound), await open_tcp(bound)
        await first.send_all(b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 30_000)
        await second.send_all(b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 30_000)

        assert await first.receive_some() == b""
        await second.send_all(b"\r\n\r\n")
        assert b"world" in await read_response(second)
        await first.aclose()
        await second.aclose()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_oldest_unread_response_makes_room(kind: str, certificate: Path) -> None:
    """The responses are larger than what the sockets take."""
    large = b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n"
    spec = ListenerSpec(CLIENT)
    if kind == "tls":
        spec = ListenerSpec(CLIENT, certificate_path=str(certificate))
    async with serving(
        spec, app=echo_application(HugeApi()), limits=limits(buffered_bytes=3 * HUGE)
    ) as [bound]:
        streams: list[trio.abc.Stream] = []
        for _ in range(2):
            stream: trio.abc.Stream = await open_tcp(bound)
            if kind == "tls":
                stream = trio.SSLStream(stream, trusting(), https_compatible=True)
            await stream.send_all(large)
            assert await stream.receive_some(1)
            streams.append(stream)

        assert await received_bytes(streams[0]) < HUGE
        assert await received_bytes(streams[1]) > HUGE
        for stream in streams:
            await trio.aclose_forcefully(stream)


HUGE = 30_000_000


@attrs.frozen
class HugeApi:
    """A large response."""

    @route("GET", "/huge", auth=NONE)
    async def huge(self) -> str:
        return "x" * HUGE


async def received_bytes(stream: trio.abc.Stream) -> int:
    """Read until the response or the connection ends; return how much was received."""
    received = 0
    try:
        while received < HUGE and (part := await stream.receive_some()):
            received += len(part)
    except trio.BrokenResourceError:
        pass
    return received


async def test_client_that_is_gone_before_it_is_served_is_harmless() -> None:
    server = Server(echo_application(), limits(), TrustedProxies())
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    client = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
    accepted, _ = await listener.accept()
    client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await client.aclose()

    await server.serve(server.app.full_view, trio.SocketStream(accepted))

    assert accepted.fileno() == -1
    listener.close()
