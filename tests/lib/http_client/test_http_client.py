"""The client against real servers on this machine: answers, faults and what is refused."""

import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from hs.lib.aio import Bridge
from hs.lib.http_client import (
    AnswerTooLarge,
    Blocked,
    HttpFault,
    TimedOut,
    Unreachable,
)
from hs.lib.http_client.addresses import networks
from tests.support.outgoing import PRIVATE, client, names
from tests.support.sites import (
    Asked,
    Page,
    Site,
    make_certificate,
    open_site,
    server_tls,
)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        opened.pages["/hello"] = Page(b"hello")
        yield opened


async def test_an_answer_is_given_whole(bridge: Bridge, site: Site) -> None:
    site.pages["/echo"] = lambda asked: Page(asked.body, 418, {"X-Thing": "a"})

    async with client(bridge) as http:
        answer = await http.send("POST", site.url("/echo?a=%2F"), headers={"X-A": "b"}, body=b"in")

    asked = site.asked[0]
    assert (answer.status, answer.headers["x-thing"], answer.body) == (418, "a", b"in")
    assert (asked.method, asked.path, asked.headers["x-a"]) == ("POST", "/echo?a=%2F", "b")
    assert asked.headers["user-agent"] == "test/1"


async def test_headers_are_text_whatever_they_are_made_of(bridge: Bridge, site: Site) -> None:
    async def odd(stream: trio.abc.Stream) -> None:
        head = "X-Odd: é".encode() + b"\xff\r\nX-Odd: 2\r\nContent-Length: 0\r\n\r\n"
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + head)

    site.pages["/"] = Page(raw=odd)

    async with client(bridge) as http:
        answer = await http.send("GET", site.url())

    assert answer.headers["x-odd"] == "é\ufffd, 2"


async def test_connections_are_kept_and_cookies_are_not(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = Page(headers={"set-cookie": "a=b"})

    async with client(bridge) as http:
        for _ in range(3):
            await http.send("GET", site.url())

    assert site.connections == 1
    assert all("cookie" not in asked.headers for asked in site.asked)


async def test_the_environment_sends_nothing_elsewhere(
    bridge: Bridge, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async with client(bridge) as http:
        assert (await http.send("GET", site.url("/hello"))).body == b"hello"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.0.0.2"],
)
async def test_this_machine_is_not_contacted(bridge: Bridge, site: Site, host: str) -> None:
    async with client(bridge, PRIVATE) as http:
        with pytest.raises(Blocked):
            await http.send("GET", site.url("/hello", host))

    assert site.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "017700000001", "127.1"])
async def test_no_spelling_of_an_address_gets_around(bridge: Bridge, site: Site, host: str) -> None:
    async with client(bridge, PRIVATE) as http:
        with pytest.raises(Blocked):
            await http.send("GET", site.url("/hello", host))


async def test_names_are_judged_by_what_they_lead_to(bridge: Bridge, site: Site) -> None:
    resolve = names(good=["127.0.0.1"], bad=["10.0.0.1"], both=["10.0.0.1 127.0.0.1"], six=["::1"])

    async with client(bridge, resolve=resolve) as http:
        for host in ("good.test", "both.test"):
            assert (await http.send("GET", site.url("/hello", host))).status == 200
        for host in ("bad.test", "six.test"):
            with pytest.raises(Blocked):
                await http.send("GET", site.url("/hello", host))


async def test_a_name_that_changes_its_address_meanwhile_is_blocked(
    bridge: Bridge, site: Site
) -> None:
    resolve = names(rebinding=["127.0.0.1", "127.0.0.2"])
    site.pages["/hello"] = Page(b"hello", headers={"connection": "close"})

    async with client(bridge, resolve=resolve) as http:
        first = await http.send("GET", site.url("/hello", "rebinding.test"))
        with pytest.raises(Blocked):
            await http.send("GET", site.url("/hello", "rebinding.test"))

    assert first.status == 200


async def test_the_address_connected_to_is_the_one_that_was_checked(
    bridge: Bridge, site: Site
) -> None:
    looked_up: list[str] = []

    async def resolve(host: str) -> Sequence[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["127.0.0.2"]

    async with client(bridge, resolve=resolve) as http:
        await http.send("GET", site.url("/hello", "rebinding.test"))

    assert looked_up == ["rebinding.test"]


async def test_names_that_are_not_there_are_unreachable(bridge: Bridge) -> None:
    async with client(bridge) as http:
        with pytest.raises(Unreachable):
            await http.send("GET", "http://nowhere.invalid/")


async def test_closed_ports_are_unreachable(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = Page(raw=trio.aclose_forcefully)

    async with client(bridge) as http:
        with pytest.raises(Unreachable):
            await http.send("POST", site.url())
        with pytest.raises(Unreachable):
            await http.send("GET", "http://127.0.0.1:1/")


# Redirects


async def test_redirects_are_answers_unless_they_are_followed(bridge: Bridge, site: Site) -> None:
    site.pages["/a"] = Page(status=302, headers={"location": "/hello"})

    async with client(bridge) as http:
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
async def test_redirects_lead_nowhere_that_is_blocked(
    bridge: Bridge, site: Site, location: str
) -> None:
    headers = {"location": location.format(port=site.port)}
    site.pages["/a"] = Page(status=301, headers=headers)

    async with client(bridge, resolve=names(bad=["10.0.0.1"])) as http:
        with pytest.raises(Blocked):
            await http.send("GET", site.url("/a"), redirects=5)


async def test_redirects_in_a_circle_end(bridge: Bridge, site: Site) -> None:
    site.pages["/a"] = Page(status=302, headers={"location": "/a"})

    async with client(bridge) as http:
        with pytest.raises(HttpFault, match="more than 3 redirects"):
            await http.send("GET", site.url("/a"), redirects=3)

    assert len(site.asked) == 4


async def test_secrets_do_not_follow_to_another_origin(bridge: Bridge, site: Site) -> None:
    there = site.url("/hello", "other.test")
    site.pages["/a"] = Page(status=307, headers={"location": there})

    async with client(bridge, resolve=names(other=["127.0.0.1"])) as http:
        headers = {"Authorization": "Bearer x", "X-Kept": "y"}
        await http.send("GET", site.url("/a"), headers=headers, redirects=1)

    first, second = site.asked
    assert first.headers["authorization"] == "Bearer x"
    assert "authorization" not in second.headers
    assert second.headers["x-kept"] == "y"


@pytest.mark.parametrize(("status", "method"), [(303, "GET"), (302, "GET"), (308, "POST")])
async def test_a_redirected_post_keeps_its_body_only_where_asked_to(
    bridge: Bridge, site: Site, status: int, method: str
) -> None:
    site.pages["/a"] = Page(status=status, headers={"location": "/hello"})

    async with client(bridge) as http:
        await http.send("POST", site.url("/a"), body=b"in", redirects=1)

    assert (site.asked[1].method, site.asked[1].body) == (method, b"in" * (method == "POST"))


# Answers that never end, or are not what they seem


async def trickle(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.05)


async def pour(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + bytes(0x10000) + b"\r\n")


async def endless_head(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-Header: " + b"x" * 1000 + b"\r\n")


async def silence(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("raw", [trickle, silence])
async def test_slow_answers_are_given_up_in_time(
    bridge: Bridge, site: Site, raw: Callable[[trio.abc.Stream], Awaitable[None]]
) -> None:
    site.pages["/"] = Page(raw=raw)

    async with client(bridge) as http:
        with pytest.raises(TimedOut):
            await http.send("GET", site.url(), timeout_s=0.5)


async def test_the_deadline_is_for_all_redirects_together(bridge: Bridge, site: Site) -> None:
    async def later(asked: Asked) -> Page:
        await trio.sleep(0.3)
        return Page(status=302, headers={"location": "/a"})

    site.pages["/a"] = later

    async with client(bridge) as http:
        with pytest.raises(TimedOut):
            await http.send("GET", site.url("/a"), timeout_s=1, redirects=100)

    assert len(site.asked) < 10


async def test_answers_without_end_are_given_up_at_the_bound(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = Page(raw=pour)

    async with client(bridge) as http:
        with pytest.raises(AnswerTooLarge):
            await http.send("GET", site.url(), max_bytes=1 << 20)


async def test_heads_without_end_are_given_up(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = Page(raw=endless_head)

    async with client(bridge) as http:
        with pytest.raises(HttpFault):
            await http.send("GET", site.url(), timeout_s=20)


async def test_the_bound_is_exact(bridge: Bridge, site: Site) -> None:
    site.pages["/"] = Page(bytes(1000))

    async with client(bridge) as http:
        assert len((await http.send("GET", site.url(), max_bytes=1000)).body) == 1000
        with pytest.raises(AnswerTooLarge):
            await http.send("GET", site.url(), max_bytes=999)


async def test_packed_answers_are_unpacked(bridge: Bridge, site: Site) -> None:
    text = b"some text, some text" * 1000
    site.pages["/"] = Page(gzip.compress(text, mtime=0), headers={"content-encoding": "gzip"})

    async with client(bridge) as http:
        assert (await http.send("GET", site.url(), max_bytes=len(text))).body == text
        with pytest.raises(AnswerTooLarge):
            await http.send("GET", site.url(), max_bytes=len(text) - 1)


async def test_a_bomb_does_not_go_off(bridge: Bridge, site: Site) -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 << 20), 9) + bytes(100 << 20), 9)
    assert len(bomb) < 1 << 20
    site.pages["/"] = Page(bomb, headers={"content-encoding": "gzip"})

    async with client(bridge) as http:
        with pytest.raises(AnswerTooLarge):
            await http.send("GET", site.url(), max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"this is no gzip"),
        ("gzip", gzip.compress(b"cut off" * 100, mtime=0)[:-12]),
        ("br", b"\x0b\x02\x80hello\x03"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"a", mtime=0), mtime=0)),
    ],
)
async def test_packing_that_is_wrong_is_no_answer(
    bridge: Bridge, site: Site, encoding: str, body: bytes
) -> None:
    site.pages["/"] = Page(body, headers={"content-encoding": encoding})

    async with client(bridge) as http:
        with pytest.raises(Unreachable):
            await http.send("GET", site.url())


async def test_a_body_that_breaks_off_is_no_answer(bridge: Bridge, site: Site) -> None:
    async def half(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    site.pages["/"] = Page(raw=half)

    async with client(bridge) as http:
        with pytest.raises(Unreachable):
            await http.send("GET", site.url())


async def test_who_is_cancelled_hangs_up(bridge: Bridge, site: Site) -> None:
    was_there, left = trio.Event(), trio.Event()

    async def hear(stream: trio.abc.Stream) -> None:
        was_there.set()
        assert not await stream.receive_some(1)
        left.set()

    site.pages["/"] = Page(raw=hear)

    async with client(bridge) as http, trio.open_nursery() as nursery:

        async def ask() -> None:
            await http.send("GET", site.url(), timeout_s=60)

        nursery.start_soon(ask)
        await was_there.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(30):
        await left.wait()


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_certificates_are_checked(bridge: Bridge, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=certificate)
    resolve = names(localhost=["127.0.0.1"], other=["127.0.0.1"])

    async with open_site(server_tls(certificate)) as site:
        site.pages["/hello"] = Page(b"hello")
        async with client(bridge, resolve=resolve, tls=trusting) as http:
            assert (await http.send("GET", site.url("/hello", "localhost"))).body == b"hello"
            with pytest.raises(Unreachable):
                await http.send("GET", site.url("/hello", "other.test"))
        async with client(bridge, resolve=resolve) as http:
            with pytest.raises(Unreachable):
                await http.send("GET", site.url("/hello", "localhost"))


def test_networks_are_read() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        networks(["10.0.0.0/99"])
