"""Rejected HTTP/1.1 requests: smuggling, ambiguous framing, oversized heads."""

import sys

import pytest

from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.http1_parser import Http1Parser
from tests.apis.web.conversation import exchange, memory_server

SECRET = b"GET /hello HTTP/1.1\r\nHost: smuggled\r\n\r\n"

AMBIGUOUS = {
    "length and chunked": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
    b"Content-Length: 5\r\n\r\n",
    "two equal lengths": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
    b"Content-Length: 0\r\n\r\n",
    "a list of lengths": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n",
    "a signed length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
    "a negative length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a hexadecimal length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n",
    "an underscored length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n",
    "an empty length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "a huge length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999"
    b"\r\n\r\n",
    "an unknown coding": b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"
    b"0\r\n\r\n",
    "codings in a row": b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n"
    b"\r\n0\r\n\r\n",
    "chunked twice": b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then identity": b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a tab in the coding": b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n"
    b"\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /unread HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "space before the colon": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
    "a folded header": b"GET /hello HTTP/1.1\r\nHost: a\r\nX-Long: a\r\n b\r\n\r\n",
    "a folded length": b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 0\r\n\r\n",
    "a header before the first": b"GET /hello HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n",
    "bare line feeds": b"GET /hello HTTP/1.1\nHost: a\n\n",
    "a bare carriage return": b"GET /hello HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 40\r\n\r\n",
    "NUL in a header": b"GET /hello HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "a control character in a header": b"GET /hello HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "no colon": b"GET /hello HTTP/1.1\r\nHost: a\r\nGarbage\r\n\r\n",
    "an empty name": b"GET /hello HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "no Host": b"GET /hello HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "an empty Host": b"GET /hello HTTP/1.1\r\nHost:\r\n\r\n",
    "a Host with a path": b"GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host with a user": b"GET /hello HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "a Host with a space": b"GET /hello HTTP/1.1\r\nHost: a b\r\n\r\n",
    "an authority target": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a relative target": b"GET hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /hello#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes in the target": b"GET /hell\xc3\xb6 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /hello there HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "an unknown method": b"HELLO /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in lower case": b"get /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /hello\r\n\r\n",
    "HTTP/2.0 in text": b"GET /hello HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET /hello HTTP/1.2\r\nHost: a\r\n\r\n",
    "a version with a space": b"GET /hello HTTP/ 1.1\r\nHost: a\r\n\r\n",
    "an unknown expectation": b"GET /hello HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n",
    "a user in the target": b"GET http://u:p@a/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
}

BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a bad size": b"zz\r\nabc\r\n0\r\n\r\n",
    "a prefixed size": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a signed size": b"+3\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "an enormous size": b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "space after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "bare line feeds": b"3\nabc\n0\n\n",
    "data longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "no line end after the data": b"3\r\nabc0\r\n\r\n",
    "a carriage return in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_ambiguous_request_is_rejected_and_ends_the_connection(
    request_bytes: bytes,
) -> None:
    received = await exchange(request_bytes + SECRET)

    status = int(received.split(b" ")[1])
    assert status in (400, 405, 417, 501, 505)
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in received
    assert b"world" not in received


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_malformed_chunk_is_rejected_and_ends_the_connection(chunks: bytes) -> None:
    head = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    received = await exchange(head + chunks + SECRET)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"world" not in received


@pytest.mark.parametrize("path", [b"/echo/a", b"/upload"])
async def test_malformed_chunk_is_rejected_while_the_client_waits(path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with memory_server() as server:
        status, _, _ = await server.connect().request(head + b"zz\r\n")

    assert status == 400


async def test_requests_before_a_malformed_one_are_answered() -> None:
    received = await exchange(SECRET + SECRET + b"GARBAGE\r\n\r\n")

    assert received.count(b"world") == 2
    assert received.count(b"HTTP/1.1 400 ") == 1


async def test_malformed_unread_body_ends_the_connection() -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    received = await exchange(head + b"zz\r\n" + SECRET)

    assert received.count(b"HTTP/1.1 ") == 1
    assert b"world" not in received


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000, 431),
        (b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"y" * 200_000, 414),
        (b"GET /hello HTTP/1.1\r\n" + b"y" * 200_000, 431),
    ],
    ids=["many headers", "a long header", "an endless header", "a long target", "endless", "name"],
)
async def test_oversized_head_is_rejected(request_bytes: bytes, status: int) -> None:
    pieces = [request_bytes[at : at + 4000] for at in range(0, len(request_bytes), 4000)]

    received = await exchange(*pieces)

    assert int(received.split(b" ")[1]) in (status, 431)


async def test_trailers_are_limited_and_dropped() -> None:
    head = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"

    dropped = await exchange(head + b"X-Checksum: 99\r\nHost: b\r\n\r\n" + SECRET)
    endless = await exchange(head + b"X: y\r\n" * 50_000)

    assert dropped.count(b"HTTP/1.1 200 OK") == 2
    assert endless.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("prefix", "more"),
    [(b"0\r\nX: ", b"y"), (b"0\r\nX", b"y"), (b"1;", b"y"), (b"1;x=", b"y"), (b"", b"0")],
    ids=["a trailer", "a trailer's name", "an extension", "its value", "a size"],
)
def test_bytes_between_body_parts_are_limited(prefix: bytes, more: bytes) -> None:
    parser = Http1Parser(HttpLimits())
    parser.feed(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    for _ in range(100):
        parser.feed(prefix)
        prefix = more * 4000

    assert parser.error is not None
    assert parser.error.status == 431


def test_many_small_chunks_are_accepted() -> None:
    parser = Http1Parser(HttpLimits())
    parser.feed(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

    for _ in range(50_000):
        parser.feed(b"1\r\n")
        parser.feed(b"a\r\n")
    parser.feed(b"0\r\n\r\n")

    assert parser.error is None
    assert parser.requests[0].complete
    assert parser.requests[0].received_bytes == 50_000


@pytest.mark.parametrize("protocol", [b"TLS/1.2", b"h2c", b"websocket"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_upgrades_are_ignored(version: bytes, protocol: bytes) -> None:
    """Java's HTTP clients request h2c or TLS with the first request, which may have a body."""
    upgrade = b"Host: a\r\nConnection: upgrade\r\nUpgrade: %b\r\n" % protocol
    plain = b"GET /hello HTTP/%b\r\n%b\r\n" % (version, upgrade)
    body = b"POST /echo/a HTTP/1.1\r\n%bContent-Length: 3\r\n\r\nabc" % upgrade
    chunks = b"3\r\nabc\r\n0\r\n\r\n"
    chunked = b"POST /echo/a HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (upgrade, chunks)

    received = await exchange(body + chunked, body[:-2], body[-2:] + plain * 2, SECRET)

    assert received.count(b"HTTP/1.1 200 OK") == (6 if version == b"1.1" else 4)
    assert received.count(b"abc") == 3


async def test_ignored_upgrade_does_not_smuggle_a_request() -> None:
    upgrade = b"Host: a\r\nConnection: upgrade\r\nUpgrade: magic\r\n"

    received = await exchange(
        b"POST /unread HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (upgrade, len(SECRET), SECRET)
    )

    assert received.count(b"HTTP/1.1 ") == 1
    assert b"world" not in received


@pytest.mark.parametrize("method", [b"HELLO", b"get", b"X-Y"])
async def test_unknown_method_is_not_allowed(method: bytes) -> None:
    """Spec: client-server API, Common error codes, M_UNRECOGNIZED."""
    received = await exchange(method + b" /hello HTTP/1.1\r\nHost: a\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 405 ")
    assert b'"errcode":"M_UNRECOGNIZED"' in received


async def test_pipelined_requests_are_limited() -> None:
    async with memory_server(limits=HttpLimits(pipelined_requests=4)) as server:
        client = server.connect()
        await client.send(SECRET * 10)

        received = await client.until_closed()

    assert received.count(b"world") == 4
    assert received.count(b"HTTP/1.1 400 ") == 1


@pytest.mark.parametrize("begun", [b"POST /echo/a HT", b"POST /echo/a HTTP/1.1\r\nHost: a\r\n"])
def test_body_that_arrives_with_the_end_of_the_head_is_not_counted_as_head(begun: bytes) -> None:
    limits = HttpLimits()
    parser = Http1Parser(limits)
    head = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
    rest = head.removeprefix(begun)

    parser.feed(begun)
    parser.feed(rest + b"x" * (limits.head_bytes - len(rest)))
    parser.feed(b"x" * limits.head_bytes)

    assert parser.error is None
    assert parser.requests[0].received_bytes == 2 * limits.head_bytes - len(rest)


@pytest.mark.parametrize("piece_bytes", [1, 10_000])
def test_head_beyond_the_limit_is_rejected_in_whatever_pieces(piece_bytes: int) -> None:
    limits = HttpLimits()
    parser = Http1Parser(limits)
    head = b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * limits.head_bytes

    sent = 0
    while parser.error is None and sent < len(head):
        parser.feed(head[sent : sent + piece_bytes])
        sent += piece_bytes

    assert parser.error is not None
    assert parser.error.status == 431


def test_body_of_small_chunks_takes_little_more_memory_than_its_bytes() -> None:
    parser = Http1Parser(HttpLimits())
    parser.feed(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

    for _ in range(3):
        parser.feed(b"2\r\nab\r\n" * 9000)

    assert sys.getsizeof(parser.requests[0].body) < 2 * 54_000


async def test_spaces_around_header_values_are_ignored() -> None:
    """Spec: RFC 9112, section 5.1."""
    received = await exchange(
        b"POST /echo/a HTTP/1.1\r\nHost:\ta \r\nContent-Length: 3\t\r\n\r\nabc" + SECRET
    )

    assert received.count(b"HTTP/1.1 200 ") == 2
