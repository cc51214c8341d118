"""The connections of directed requests: reuse, faults, limits, tunnels. All on this machine."""

import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from hs.lib.http_client import HttpBlocked, HttpFault, HttpNotConnected, HttpUnreachable
from hs.lib.http_client.addresses import ALLOW_ALL, AddressRules
from hs.lib.http_client.connecting import ConnectionTarget
from hs.lib.http_client.connection_pool import IDLE_S, SWEEP_S, ConnectionPool
from hs.lib.http_client.directed import DirectedHttpClient, DirectedRequest
from hs.lib.http_client.targets import NO_PROXIES, Proxies
from tests.support.outgoing import PRIVATE
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.sites import (
    Site,
    SiteRequest,
    SiteResponse,
    forward,
    open_site,
    read_request,
)

Raw = Callable[[trio.abc.Stream], Awaitable[None]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "DNS:far.example")


@attrs.frozen(eq=False)
class Reached:
    """A site and a client for it."""

    site: Site
    http: DirectedHttpClient
    tls: ssl.SSLContext

    def request(self, method: str = "GET", **more: object) -> DirectedRequest:
        """Return a request to the site."""
        request = DirectedRequest(
            method=method,
            host="far.example",
            port=self.site.port,
            certificate_name="far.example",
            uri="/",
            headers={"host": "far.example"},
            body=None if method == "GET" else b"{}",
            timeout_s=20,
            max_bytes=1 << 20,
            tls=self.tls,
        )
        return attrs.evolve(request, **more)  # type: ignore[arg-type]  # passed on

    async def get(self) -> bytes:
        """Return a body."""
        return (await self.http.send(self.request())).body


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


@asynccontextmanager
async def reach(
    certificates: Certificates,
    rules: AddressRules = ALLOW_ALL,
    proxies: Proxies = NO_PROXIES,
    addresses: Sequence[str] = ("127.0.0.1",),
    **more: int,
) -> AsyncIterator[Reached]:
    async def resolve(host: str) -> Sequence[str]:
        return addresses

    async with open_site(server_context(certificates)) as site:
        site.pages["/"] = SiteResponse(b"hello")
        http = DirectedHttpClient(rules, proxies, resolve, **more)
        tls = ssl.create_default_context(cafile=str(certificates.authority))
        try:
            yield Reached(site, http, tls)
        finally:
            http.close()


def then_close(responses: int) -> Callable[[Site], Raw]:
    """Return what closes the connection after a number of responses, as if it had timed out."""

    def for_site(site: Site) -> Raw:
        async def respond(stream: trio.abc.Stream) -> None:
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            for _ in range(responses - 1):
                request = await read_request(stream)
                assert request is not None
                site.requests.append(request)
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            # It reads the next request and closes the connection without a response.
            if (request := await read_request(stream)) is not None:
                site.requests.append(request)

        return respond

    return for_site


async def test_connection_is_used_again(certificates: Certificates) -> None:
    async with reach(certificates) as reached:
        bodies = [await reached.get() for _ in range(3)]

    assert bodies == [b"hello"] * 3
    assert reached.site.connections == 1


async def test_idle_connection_that_was_closed_is_replaced(certificates: Certificates) -> None:
    async def once(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        await stream.aclose()
        closed.set()

    async with reach(certificates) as reached:
        for _ in range(2):
            closed = trio.Event()
            reached.site.pages["/"] = SiteResponse(raw=once)
            assert await reached.get() == b"hello"
            await closed.wait()
            await trio.testing.wait_all_tasks_blocked(0.02)

        response = await reached.http.send(reached.request("POST"))

    assert response.body == b"hello"
    assert reached.site.connections == 3
    assert len(reached.site.requests) == 3


async def test_request_is_repeated_once_on_a_new_connection(certificates: Certificates) -> None:
    async with reach(certificates) as reached:
        reached.site.pages["/"] = SiteResponse(raw=then_close(1)(reached.site))

        bodies = [await reached.get() for _ in range(2)]

    assert bodies == [b"hello"] * 2
    assert reached.site.connections == 2
    assert len(reached.site.requests) == 3


async def test_request_that_may_not_be_repeated_is_sent_once(certificates: Certificates) -> None:
    async with reach(certificates) as reached:
        reached.site.pages["/"] = SiteResponse(raw=then_close(1)(reached.site))
        await reached.get()

        with pytest.raises(HttpUnreachable, match="without a response"):
            await reached.http.send(reached.request("POST"))

    assert len(reached.site.requests) == 2


async def test_new_connection_that_fails_is_not_tried_again(certificates: Certificates) -> None:
    async def close(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    async with reach(certificates) as reached:
        reached.site.pages["/"] = SiteResponse(raw=close)

        with pytest.raises(HttpUnreachable):
            await reached.get()

    assert reached.site.connections == 1


async def test_response_that_has_begun_is_not_repeated(certificates: Certificates) -> None:
    async def begin(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        request = await read_request(stream)
        assert request is not None
        reached.site.requests.append(request)
        await stream.send_all(b"H")

    async with reach(certificates) as reached:
        reached.site.pages["/"] = SiteResponse(raw=begin)
        await reached.get()

        with pytest.raises(HttpUnreachable, match="before the end"):
            await reached.get()

    assert len(reached.site.requests) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello surplus",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
    ],
)
async def test_connection_is_not_used_again(certificates: Certificates, content: bytes) -> None:
    async def respond(stream: trio.abc.Stream) -> None:
        await stream.send_all(content)
        if not content.startswith(b"HTTP/1.0"):
            await stream.receive_some()

    async with reach(certificates) as reached:
        reached.site.pages["/"] = SiteResponse(raw=respond)

        assert [await reached.get() for _ in range(2)] == [b"hello"] * 2

    assert reached.site.connections == 2


async def test_cancelled_request_closes_its_connection(certificates: Certificates) -> None:
    async def wait(request: SiteRequest) -> SiteResponse:
        await trio.sleep_forever()

    async with reach(certificates) as reached:
        await reached.get()
        reached.site.pages["/"] = wait
        with trio.move_on_after(0.05) as scope:
            await reached.get()
        reached.site.pages["/"] = SiteResponse(b"again")

        assert scope.cancelled_caught
        assert await reached.get() == b"again"

    assert reached.site.connections == 2


async def test_large_request_and_response_are_complete(certificates: Certificates) -> None:
    content = bytes(range(256)) * 20_000

    async with reach(certificates) as reached:
        reached.site.pages["/"] = lambda request: SiteResponse(request.body)
        request = reached.request("PUT", body=content, max_bytes=len(content))
        responses = [await reached.http.send(request) for _ in range(2)]

    assert [response.body for response in responses] == [content] * 2
    assert reached.site.connections == 1


@pytest.mark.parametrize(
    ("content", "encoding", "fault"),
    [
        (gzip.compress(b"hello"), "gzip", None),
        (gzip.compress(bytes(600_000)), "x-gzip", None),
        (gzip.compress(bytes(100_000_000)), "gzip", "larger than"),
        (gzip.compress(b"hello")[:-9], "gzip", "truncated"),
        (b"not compressed", "gzip", "header"),
        (b"hello", "br", "unsupported"),
    ],
    ids=["small", "large", "too-large", "truncated", "not-compressed", "another-encoding"],
)
async def test_compressed_response_is_decompressed_within_bounds(
    certificates: Certificates, content: bytes, encoding: str, fault: str | None
) -> None:
    async with reach(certificates) as reached:
        headers = {"content-encoding": encoding}
        reached.site.pages["/"] = SiteResponse(content, headers=headers)

        if fault is None:
            assert await reached.get() == gzip.decompress(content)
        else:
            with pytest.raises(HttpFault, match=fault):
                await reached.get()


async def test_response_before_the_end_of_the_request_is_received(
    certificates: Certificates,
) -> None:
    async def refuse(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        secure = trio.SSLListener(listener, server_context(certificates), https_compatible=True)
        nursery.start_soon(trio.serve_listeners, refuse, [secure])
        async with reach(certificates) as reached:
            request = reached.request("PUT", body=bytes(20_000_000))
            port = listener.socket.getsockname()[1]
            response = await reached.http.send(attrs.evolve(request, port=port))
        nursery.cancel_scope.cancel()

    assert (response.status, response.body) == (413, b"no!")


async def test_next_address_of_a_name_is_tried(certificates: Certificates) -> None:
    async with reach(certificates, addresses=("127.0.0.9", "127.0.0.1")) as reached:
        assert await reached.get() == b"hello"  # the site is not at the first one


async def test_name_without_reachable_address_is_not_connected(certificates: Certificates) -> None:
    for addresses in ((), ("127.0.0.9",), ("127.0.0.8", "127.0.0.9")):
        async with reach(certificates, addresses=addresses) as reached:
            with pytest.raises(HttpNotConnected):
                await reached.get()


async def test_requests_to_a_target_wait_for_their_turn(certificates: Certificates) -> None:
    now, most = 0, 0

    async def respond(request: SiteRequest) -> SiteResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(0.01)
        now -= 1
        return SiteResponse(b"hello")

    async with reach(certificates, connections_per_target=2) as reached:
        reached.site.pages["/"] = respond
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(reached.get)

    assert most == 2
    assert reached.site.connections == 2


@pytest.mark.parametrize("has_tls", [False, True])
async def test_proxy_opens_a_tunnel(certificates: Certificates, has_tls: bool) -> None:
    hops: list[str] = []
    seen: list[SiteRequest] = []

    async def serve(stream: trio.abc.Stream) -> None:
        await forward(stream, hops, reached.site)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    secure = trio.SSLListener(listener, server_context(certificates), https_compatible=True)
    scheme = "https" if has_tls else "http"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [secure if has_tls else listener])
        proxies = Proxies(https=f"{scheme}://user:word@127.0.0.1:{port}")
        async with reach(certificates, proxies=proxies) as reached:
            assert [await reached.get() for _ in range(2)] == [b"hello"] * 2
            seen += reached.site.requests
        nursery.cancel_scope.cancel()

    assert hops == [f"CONNECT far.example:{reached.site.port}"]
    assert "proxy-authorization" not in seen[0].headers


async def test_proxy_that_refuses_is_no_connection(certificates: Certificates) -> None:
    async def refuse(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        assert request is not None
        received.append(request)
        await stream.send_all(b"HTTP/1.1 407 Authenticate\r\ncontent-length: 0\r\n\r\n")

    received: list[SiteRequest] = []
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, refuse, 0)
        port = listeners[0].socket.getsockname()[1]
        proxies = Proxies(https=f"http://us%3Aer:word@127.0.0.1:{port}")
        async with reach(certificates, proxies=proxies) as reached:
            with pytest.raises(HttpNotConnected, match="status 407"):
                await reached.get()
        nursery.cancel_scope.cancel()

    assert received[0].headers["proxy-authorization"] == "Basic dXM6ZXI6d29yZA=="


async def test_blocked_addresses_are_not_connected_to(certificates: Certificates) -> None:
    async with reach(certificates, PRIVATE, addresses=("127.0.0.1", "::1")) as reached:
        for host in ("far.example", "127.0.0.1", "::1", "::ffff:127.0.0.1", "2002:7f00:1::"):
            with pytest.raises(HttpBlocked):
                await reached.http.send(reached.request(host=host))
        for host in ("2130706433", "127.1", "0x7f.1", "fe80::1%1", "a b", "a/b", "user@a"):
            with pytest.raises(HttpBlocked):
                await reached.http.send(reached.request(host=host))

    assert reached.site.connections == 0


@attrs.define(eq=False)
class ScriptedWire:
    """A wire of the pool alone."""

    quiet: bool = True
    is_closed: bool = False

    async def send(self, content: bytes) -> None:
        raise AssertionError

    async def receive(self) -> bytes:
        raise AssertionError

    def is_quiet(self) -> bool:
        return self.quiet

    def close(self) -> None:
        self.is_closed = True


def target(host: str) -> ConnectionTarget:
    return ConnectionTarget(host, 443, host, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


async def test_idle_connections_are_closed_in_time_and_bounded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wires: list[ScriptedWire] = []

    async def open_wire(target: ConnectionTarget) -> ScriptedWire:
        wires.append(ScriptedWire())
        return wires[-1]

    pool = ConnectionPool(open_wire, 3, 3)
    targets = [target(f"{number}.example") for number in range(4)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        for each in targets:
            place = await pool.enter(each)
            pool.keep(await pool.connection(each, place), place)
            pool.leave(each, place)
        assert [wire.is_closed for wire in wires] == [True, False, False, False]
        await trio.sleep(IDLE_S / 2)
        place = await pool.enter(targets[3])
        pool.keep(await pool.connection(targets[3], place), place)
        pool.leave(targets[3], place)
        await trio.sleep(IDLE_S / 2 + SWEEP_S)
        assert [wire.is_closed for wire in wires] == [True, True, True, False]
        nursery.cancel_scope.cancel()

    assert all(wire.is_closed for wire in wires)
    assert len(wires) == 4


async def test_waiting_request_that_is_cancelled_leaves_the_turn_to_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def open_wire(target: ConnectionTarget) -> ScriptedWire:
        return ScriptedWire()

    pool = ConnectionPool(open_wire, 1, 1)
    first, second = target("a.example"), target("b.example")
    place = await pool.enter(first)
    for waiting in (first, second):
        with trio.move_on_after(1) as scope:
            await pool.enter(waiting)
        assert scope.cancelled_caught

    pool.leave(first, place)

    pool.leave(second, await pool.enter(second))
