"""The HTTP client against real servers on this machine: responses, faults and blocked requests."""

import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from hs.lib.aio import Bridge
from hs.lib.http_client import (
    HttpBlocked,
    HttpFault,
    HttpTimedOut,
    HttpUnreachable,
    ResponseTooLarge,
)
from hs.lib.http_client.addresses import parse_networks
from tests.support.outgoing import PRIVATE, fake_resolver, open_http_client
from tests.support.servers.sites import (
    Site,
    SiteRequest,
    SiteResponse,
    make_certificate,
    open_site,
    server_tls,
)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        opened.pages["/hello"] = SiteResponse(b"hello")
        yield opened


async def test_response_is_returned_completely(bridge: Bridge, site: Site) -> None:
    site.pages["/echo"] = lambda request: SiteResponse(request.body, 418, {"X-Thing": "a"})

    async with open_http_client(bridge) as http:
        response = await http.send(
            "POST", site.url("/echo?a=%2F"), headers={"X-A": "b"}, body=b"in"
        )

    request = site.requests[0]
    assert (response.status, response.headers["x-thing"], response.body) == (418, "a", b"in")
    assert (request.method, request.path, request.headers["x-a"]) == ("POST", "/echo?a=%2F", "b")
    assert request.headers["user-agent"] == "test/1"


async def test_invalid_utf8_in_headers_is_replaced(bridge: Bridge, site: Site) -> None:
    async def send_odd_headers(stream: trio.abc.Stream) -> None:
        head = "X-Odd: é".encode() + b"\xff\r\nX-Odd: 2\r\nContent-Length: 0\r\n\r\n"
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + head)

    site.pages["/"] = SiteResponse(raw=send_odd_headers)

    async with open_http_client(bridge) as http:
        response = await http.send("GET", site.url())

    assert response.headers["x-odd"] == "é\ufffd, 2"


async def test_connections_are_reused_and_cookies_ignored(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = SiteResponse(headers={"set-cookie": "a=b"})

    async with open_http_client(bridge) as http:
        for _ in range(3):
            await http.send("GET", site.url())

    assert site.connections == 1
    assert all("cookie" not in asked.headers for asked in site.requests)


async def test_proxy_of_environment_is_ignored(
    bridge: Bridge, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async with open_http_client(bridge) as http:
        assert (await http.send("GET", site.url("/hello"))).body == b"hello"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.0.0.2"],
)
async def test_addresses_of_this_machine_are_blocked(bridge: Bridge, site: Site, host: str) -> None:
    async with open_http_client(bridge, PRIVATE) as http:
        with pytest.raises(HttpBlocked):
            await http.send("GET", site.url("/hello", host))

    assert site.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "017700000001", "127.1"])
async def test_unusual_spellings_of_addresses_are_blocked(
    bridge: Bridge, site: Site, host: str
) -> None:
    async with open_http_client(bridge, PRIVATE) as http:
        with pytest.raises(HttpBlocked):
            await http.send("GET", site.url("/hello", host))


async def test_names_are_blocked_by_their_addresses(bridge: Bridge, site: Site) -> None:
    resolve = fake_resolver(
        good=["127.0.0.1"], bad=["10.0.0.1"], both=["10.0.0.1 127.0.0.1"], six=["::1"]
    )

    async with open_http_client(bridge, resolve=resolve) as http:
        for host in ("good.test", "both.test"):
            assert (await http.send("GET", site.url("/hello", host))).status == 200
        for host in ("bad.test", "six.test"):
            with pytest.raises(HttpBlocked):
                await http.send("GET", site.url("/hello", host))


async def test_name_that_changes_to_blocked_address_is_blocked(bridge: Bridge, site: Site) -> None:
    resolve = fake_resolver(rebinding=["127.0.0.1", "127.0.0.2"])
    site.pages["/hello"] = SiteResponse(b"hello", headers={"connection": "close"})

    async with open_http_client(bridge, resolve=resolve) as http:
        first = await http.send("GET", site.url("/hello", "rebinding.test"))
        with pytest.raises(HttpBlocked):
            await http.send("GET", site.url("/hello", "rebinding.test"))

    assert first.status == 200


async def test_connection_uses_the_address_that_was_checked(bridge: Bridge, site: Site) -> None:
    resolved: list[str] = []

    async def resolve(host: str) -> Sequence[str]:
        resolved.append(host)
        return ["127.0.0.1"] if len(resolved) == 1 else ["127.0.0.2"]

    async with open_http_client(bridge, resolve=resolve) as http:
        await http.send("GET", site.url("/hello", "rebinding.test"))

    assert resolved == ["rebinding.test"]


async def test_unknown_name_is_unreachable(bridge: Bridge) -> None:
    async with open_http_client(bridge) as http:
        with pytest.raises(HttpUnreachable):
            await http.send("GET", "http://nowhere.invalid/")


async def test_closed_port_and_connection_are_unreachable(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = SiteResponse(raw=trio.aclose_forcefully)

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpUnreachable):
            await http.send("POST", site.url())
        with pytest.raises(HttpUnreachable):
            await http.send("GET", "http://127.0.0.1:1/")


# Redirects


async def test_redirects_are_followed_only_on_request(bridge: Bridge, site: Site) -> None:
    site.pages["/a"] = SiteResponse(status=302, headers={"location": "/hello"})

    async with open_http_client(bridge) as http:
        raw = await http.send("GET", site.url("/a"))
        followed = await http.send("GET", site.url("/a"), redirects=1)

    assert (raw.status, raw.headers["location"]) == (302, "/hello")
    assert (followed.body, followed.url) == (b"hello", site.url("/hello"))


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/hello",
        "http://[::1]:{port}/hello",
        "http://169.254.169.254/latest/meta-data/",
        "http://bad.test:{port}/hello",
        "http://user@127.0.0.1:{port}/hello",
        "//127.1:{port}/hello",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
    ],
)
async def test_redirects_to_blocked_targets_are_blocked(
    bridge: Bridge, site: Site, location: str
) -> None:
    headers = {"location": location.format(port=site.port)}
    site.pages["/a"] = SiteResponse(status=301, headers=headers)

    async with open_http_client(bridge, resolve=fake_resolver(bad=["10.0.0.1"])) as http:
        with pytest.raises(HttpBlocked):
            await http.send("GET", site.url("/a"), redirects=5)


async def test_number_of_redirects_is_bounded(bridge: Bridge, site: Site) -> None:
    site.pages["/a"] = SiteResponse(status=302, headers={"location": "/a"})

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpFault, match="more than 3 redirects"):
            await http.send("GET", site.url("/a"), redirects=3)

    assert len(site.requests) == 4


async def test_credentials_are_not_sent_to_another_origin(bridge: Bridge, site: Site) -> None:
    other_url = site.url("/hello", "other.test")
    site.pages["/a"] = SiteResponse(status=307, headers={"location": other_url})

    async with open_http_client(bridge, resolve=fake_resolver(other=["127.0.0.1"])) as http:
        headers = {"Authorization": "Bearer x", "X-Kept": "y"}
        await http.send("GET", site.url("/a"), headers=headers, redirects=1)

    first, second = site.requests
    assert first.headers["authorization"] == "Bearer x"
    assert "authorization" not in second.headers
    assert second.headers["x-kept"] == "y"


@pytest.mark.parametrize(("status", "method"), [(303, "GET"), (302, "GET"), (308, "POST")])
async def test_redirected_post_keeps_body_only_for_status_308(
    bridge: Bridge, site: Site, status: int, method: str
) -> None:
    site.pages["/a"] = SiteResponse(status=status, headers={"location": "/hello"})

    async with open_http_client(bridge) as http:
        await http.send("POST", site.url("/a"), body=b"in", redirects=1)

    assert (site.requests[1].method, site.requests[1].body) == (method, b"in" * (method == "POST"))


# Endless and malformed responses


async def send_slowly(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.05)


async def send_endless_body(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + bytes(0x10000) + b"\r\n")


async def send_endless_head(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-Header: " + b"x" * 1000 + b"\r\n")


async def send_nothing(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("raw", [send_slowly, send_nothing])
async def test_slow_response_times_out(
    bridge: Bridge, site: Site, raw: Callable[[trio.abc.Stream], Awaitable[None]]
) -> None:
    site.pages["/"] = SiteResponse(raw=raw)

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpTimedOut):
            await http.send("GET", site.url(), timeout_s=0.5)


async def test_timeout_covers_all_redirects(bridge: Bridge, site: Site) -> None:
    async def redirect_later(request: SiteRequest) -> SiteResponse:
        await trio.sleep(0.3)
        return SiteResponse(status=302, headers={"location": "/a"})

    site.pages["/a"] = redirect_later

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpTimedOut):
            await http.send("GET", site.url("/a"), timeout_s=1, redirects=100)

    assert len(site.requests) < 10


async def test_endless_response_is_cut_off_at_limit(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = SiteResponse(raw=send_endless_body)

    async with open_http_client(bridge) as http:
        with pytest.raises(ResponseTooLarge):
            await http.send("GET", site.url(), max_bytes=1 << 20)


async def send_endless_interim_responses(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


async def send_endless_responses(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 1000)


async def send_few_interim_responses(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("raw", [send_endless_interim_responses, send_endless_responses])
async def test_connection_with_endless_responses_is_closed(
    bridge: Bridge, site: Site, raw: Callable[[trio.abc.Stream], Awaitable[None]]
) -> None:
    closed = trio.Event()

    async def send(stream: trio.abc.Stream) -> None:
        try:
            await raw(stream)
        finally:
            closed.set()

    site.pages["/"] = SiteResponse(raw=send)

    async with open_http_client(bridge) as http:
        # The first one of several responses may be read before the others arrive.
        with suppress(HttpUnreachable):
            await http.send("GET", site.url(), timeout_s=60)
        with trio.fail_after(60):
            await closed.wait()


async def send_tiny_chunks(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"1\r\nx\r\n" * 10_000)


async def send_endless_extension(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    while True:
        await stream.send_all(b"x" * 10_000)


async def send_empty_lines(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(b"\r\n" * 10_000)


@pytest.mark.parametrize("raw", [send_tiny_chunks, send_endless_extension, send_empty_lines])
async def test_response_of_framing_without_content_is_given_up(
    bridge: Bridge, site: Site, raw: Callable[[trio.abc.Stream], Awaitable[None]]
) -> None:
    site.pages["/"] = SiteResponse(raw=raw)

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpUnreachable, match="no content"):
            await http.send("GET", site.url(), timeout_s=60, max_bytes=1 << 30)


async def test_interim_responses_are_skipped(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = SiteResponse(raw=send_few_interim_responses)

    async with open_http_client(bridge) as http:
        assert (await http.send("GET", site.url())).body == b"ok"


async def test_endless_headers_are_cut_off(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = SiteResponse(raw=send_endless_head)

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpFault):
            await http.send("GET", site.url(), timeout_s=20)


async def test_response_of_exactly_the_limit_is_accepted(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = SiteResponse(bytes(1000))

    async with open_http_client(bridge) as http:
        assert len((await http.send("GET", site.url(), max_bytes=1000)).body) == 1000
        with pytest.raises(ResponseTooLarge):
            await http.send("GET", site.url(), max_bytes=999)


async def test_compressed_response_is_decompressed(bridge: Bridge, site: Site) -> None:
    text = b"some text, some text" * 1000
    site.pages["/"] = SiteResponse(
        gzip.compress(text, mtime=0), headers={"content-encoding": "gzip"}
    )

    async with open_http_client(bridge) as http:
        assert (await http.send("GET", site.url(), max_bytes=len(text))).body == text
        with pytest.raises(ResponseTooLarge):
            await http.send("GET", site.url(), max_bytes=len(text) - 1)


async def test_decompression_bomb_is_cut_off(bridge: Bridge, site: Site) -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 << 20), 9) + bytes(100 << 20), 9)
    assert len(bomb) < 1 << 20
    site.pages["/"] = SiteResponse(bomb, headers={"content-encoding": "gzip"})

    async with open_http_client(bridge) as http:
        with pytest.raises(ResponseTooLarge):
            await http.send("GET", site.url(), max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"this is not gzip"),
        ("gzip", gzip.compress(b"cut off" * 100, mtime=0)[:-12]),
        ("br", b"\x0b\x02\x80hello\x03"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"a", mtime=0), mtime=0)),
    ],
)
async def test_malformed_compression_is_fault(
    bridge: Bridge, site: Site, encoding: str, body: bytes
) -> None:
    site.pages["/"] = SiteResponse(body, headers={"content-encoding": encoding})

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpUnreachable):
            await http.send("GET", site.url())


async def test_truncated_body_is_fault(bridge: Bridge, site: Site) -> None:
    async def send_half(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    site.pages["/"] = SiteResponse(raw=send_half)

    async with open_http_client(bridge) as http:
        with pytest.raises(HttpUnreachable):
            await http.send("GET", site.url())


async def test_cancelled_caller_closes_the_connection(bridge: Bridge, site: Site) -> None:
    connected, closed = trio.Event(), trio.Event()

    async def wait_for_close(stream: trio.abc.Stream) -> None:
        connected.set()
        assert not await stream.receive_some(1)
        closed.set()

    site.pages["/"] = SiteResponse(raw=wait_for_close)

    async with open_http_client(bridge) as http, trio.open_nursery() as nursery:

        async def send() -> None:
            await http.send("GET", site.url(), timeout_s=60)

        nursery.start_soon(send)
        await connected.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(30):
        await closed.wait()


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_certificates_are_verified(bridge: Bridge, certificate: Path) -> None:
    trusting_tls = ssl.create_default_context(cafile=certificate)
    resolve = fake_resolver(localhost=["127.0.0.1"], other=["127.0.0.1"])

    async with open_site(server_tls(certificate)) as site:
        site.pages["/hello"] = SiteResponse(b"hello")
        async with open_http_client(bridge, resolve=resolve, tls=trusting_tls) as http:
            assert (await http.send("GET", site.url("/hello", "localhost"))).body == b"hello"
            with pytest.raises(HttpUnreachable):
                await http.send("GET", site.url("/hello", "other.test"))
        async with open_http_client(bridge, resolve=resolve) as http:
            with pytest.raises(HttpUnreachable):
                await http.send("GET", site.url("/hello", "localhost"))


def test_invalid_network_raises_value_error() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        parse_networks(["10.0.0.0/99"])
