"""HTTP/1.1 connections: valid requests are answered, slow clients are disconnected."""

import h11
import orjson
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.apis.web.http1_limits import HttpLimits
from tests.apis.web.conversation import EchoApi, echo_application, exchange, memory_server

HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


async def test_a_connection_serves_several_requests() -> None:
    async with memory_server() as server:
        client = server.connect()

        first = await client.request(HELLO)
        second = await client.request(post(b"/echo/a%2Fb", b"text"))

    assert first[0] == 200
    assert first[2] == b'{"hello":"world"}'
    assert second[2] == b'{"name":"a/b","content":"text"}'


async def test_pipelined_requests_are_answered_in_order() -> None:
    asked = b"".join(post(b"/echo/%d" % number, b"x" * number) for number in range(10))

    received = await exchange(asked)

    positions = [received.index(b'{"name":"%d"' % number) for number in range(10)]
    assert positions == sorted(positions)


async def test_a_request_may_arrive_byte_by_byte() -> None:
    request = post(b"/echo/a", b"hello")

    received = await exchange(*(request[at : at + 1] for at in range(len(request))))

    assert b'"content":"hello"' in received


async def test_chunked_bodies_are_joined() -> None:
    head = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"

    received = await exchange(head, b"3\r\nabc\r\n", b"A;x=y\r\n0123456789\r\n0\r\n\r\n", HELLO)

    assert b'"content":"abc0123456789"' in received
    assert b"world" in received


async def test_response_to_head_has_length_and_no_body() -> None:
    received = await exchange(HELLO.replace(b"GET", b"HEAD") + HELLO)

    assert received.count(b"content-length: 17\r\n") == 2
    assert received.count(b"world") == 1


@pytest.mark.parametrize(("path", "status"), [(b"/nothing", b"204"), (b"/unchanged", b"304")])
async def test_statuses_without_a_body_have_no_length(path: bytes, status: bytes) -> None:
    received = await exchange(HELLO.replace(b"/hello", path))

    assert received.startswith(b"HTTP/1.1 " + status)
    assert b"content-length" not in received
    assert b"transfer-encoding" not in received
    assert received.endswith(b"\r\n\r\n")


async def test_a_streamed_response_is_chunked() -> None:
    received = await exchange(HELLO.replace(b"/hello", b"/parts") + HELLO)

    assert b"transfer-encoding: chunked\r\n" in received
    assert b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n" in received
    assert b"world" in received


async def test_http_1_0_response_ends_with_the_connection() -> None:
    received = await exchange(b"GET /parts HTTP/1.0\r\n\r\n" + HELLO)

    assert b"connection: close\r\n" in received
    assert received.endswith(b"\r\n\r\nonetwothree")


async def test_connection_close_is_honoured() -> None:
    received = await exchange(HELLO[:-2] + b"Connection: x, Close\r\n\r\n" + HELLO)

    assert received.count(b"world") == 1
    assert b"connection: close\r\n" in received


async def test_absolute_and_asterisk_targets_are_accepted() -> None:
    received = await exchange(
        HELLO.replace(b"/hello", b"http://elsewhere/hello?x"),
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    )

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 204 No Content" in received


async def test_100_continue_is_sent_when_the_body_is_read() -> None:
    async with memory_server() as server:
        client = server.connect()
        await client.send(post(b"/echo/a", b"", b"Expect: 100-continue").replace(b": 0", b": 3"))
        interim = bytes(await client.stream.receive_some())

        response = await client.request(b"abc")

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert response[2] == b'{"name":"a","content":"abc"}'


async def test_100_continue_is_not_sent_for_an_unread_body() -> None:
    received = await exchange(
        post(b"/unread", b"", b"Expect: 100-continue").replace(b": 0", b": 3")
    )

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in received


async def test_a_small_unread_body_is_discarded() -> None:
    received = await exchange(post(b"/unread", b"x" * 1000) + HELLO)

    assert received.count(b"HTTP/1.1 200 OK") == 2


async def test_a_large_unread_body_closes_the_connection() -> None:
    received = await exchange(post(b"/unread", b"")[:-5] + b"900000\r\n\r\n" + b"x" * 1000)

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in received


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"/echo/a", b"x" * 1001),
        b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
        + b"x" * 1001
        + b"\r\n0\r\n\r\n",
    ],
    ids=["declared", "chunked"],
)
async def test_body_beyond_the_limit_of_its_endpoint_is_too_large(request_bytes: bytes) -> None:
    received = await exchange(request_bytes)

    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"M_TOO_LARGE" in received


async def test_a_streamed_upload_is_read_as_it_arrives() -> None:
    parts = [b"x" * 50_000] * 20

    received = await exchange(
        b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", *parts
    )

    assert b'{"size":1000000}' in received


async def test_headers_cannot_be_injected_by_the_application() -> None:
    received = await exchange(HELLO.replace(b"/hello", b"/broken"))

    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in received


async def test_a_silent_client_is_disconnected(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_server(limits=HttpLimits(head_s=15)) as server:
        started = trio.current_time()

        assert await server.connect().until_closed() == b""

        assert 15 <= trio.current_time() - started < 18


async def test_a_client_that_sends_its_head_slowly_is_disconnected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_server(limits=HttpLimits(head_s=15)) as server:
        client = server.connect()
        started = trio.current_time()

        with pytest.raises(trio.BrokenResourceError):
            await client.drip(HELLO[:-2] + b"X: " + b"y" * 1000, every_s=5)

        assert trio.current_time() - started < 30


async def test_a_client_that_sends_its_body_slowly_is_disconnected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_server(limits=HttpLimits(body_grace_s=30)) as server:
        client = server.connect()
        started = trio.current_time()
        await client.send(b"POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")

        with pytest.raises(trio.BrokenResourceError):
            await client.drip(b"x" * 900, every_s=5)

        assert trio.current_time() - started < 45


async def test_blank_lines_do_not_extend_keep_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_server(limits=HttpLimits(keep_alive_s=60)) as server:
        client = server.connect()
        await client.request(HELLO)
        started = trio.current_time()

        with pytest.raises(trio.BrokenResourceError):
            await client.drip(b"\r\n" * 100, every_s=5)

        assert trio.current_time() - started < 75


async def test_clock_of_a_server_stops_while_it_has_no_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_server(limits=HttpLimits(keep_alive_s=60)) as server:
        began = trio.current_time()
        await trio.sleep(1000)
        assert server.server.now == began

        client = server.connect()
        assert (await client.request(HELLO))[0] == 200
        assert server.server.now == trio.current_time()
        assert await client.until_closed() == b""

        assert 1060 <= trio.current_time() - began < 1062


async def test_an_idle_connection_closes_after_keep_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_server(limits=HttpLimits(keep_alive_s=60)) as server:
        client = server.connect()
        await client.request(HELLO)
        await trio.sleep(55)
        await client.request(HELLO)
        started = trio.current_time()

        assert await client.until_closed() == b""

        assert 60 <= trio.current_time() - started < 65


async def test_a_slow_handler_is_not_timed_out(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_server() as server:
        response = await server.connect().request(HELLO.replace(b"/hello", b"/wait?seconds=3600"))

    assert response[0] == 200


async def test_disconnect_cancels_a_waiting_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = EchoApi()
    async with memory_server(echo_application(api)) as server:
        client = server.connect()
        await client.send(HELLO.replace(b"/hello", b"/wait?seconds=3600"))
        await api.waiting.wait()

        await client.stream.aclose()

        with trio.fail_after(10):
            await api.cancelled.wait()


async def test_disconnect_does_not_cancel_other_handlers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = EchoApi()
    async with memory_server(echo_application(api)) as server:
        client = server.connect()
        await client.send(HELLO.replace(b"/hello", b"/stubborn?seconds=60"))
        await api.waiting.wait()

        await client.stream.aclose()
        await trio.sleep(61)

    assert api.finished == 1


async def test_a_request_sent_during_a_long_poll_is_answered_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_server() as server:
        client = server.connect()
        await client.send(HELLO.replace(b"/hello", b"/wait?seconds=30"))
        await trio.sleep(1)

        await client.send(HELLO)

        assert (await client.response())[2] == b"{}"
        assert (await client.response())[2] == b'{"hello":"world"}'


_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1)
_VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
_FORBIDDEN_NAMES = {"host", "content-length", "transfer-encoding", "connection", "expect"}


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    """Generate requests as written by the client of h11, some of them chunked."""
    names = _TOKEN.filter(lambda name: name.lower() not in _FORBIDDEN_NAMES | {"upgrade"})
    headers = draw(st.lists(st.tuples(names, _VALUE), max_size=8))
    body = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    connection = h11.Connection(h11.CLIENT)
    framing = (
        ("transfer-encoding", "chunked")
        if draw(st.booleans())
        else ("content-length", str(sum(map(len, body))))
    )
    target = "/echo/" + draw(st.from_regex(r"[a-zA-Z0-9~!$&'()*+,;=:@_.-]+", fullmatch=True))
    request = h11.Request(
        method=draw(st.sampled_from(["POST", "PUT"])),
        target=target,
        headers=[("host", "a"), *headers, framing],
    )
    pieces = [connection.send(request), *(connection.send(h11.Data(part)) for part in body)]
    return b"".join(piece or b"" for piece in [*pieces, connection.send(h11.EndOfMessage())])


def read_by_h11(request: bytes) -> tuple[bytes, bytes]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(request)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return head.target, body


@settings(max_examples=60, deadline=None)
@given(request=valid_requests(), cut=st.integers(1, 200))
async def test_valid_requests_are_parsed_as_by_h11(request: bytes, cut: int) -> None:
    target, body = read_by_h11(request)

    async with memory_server() as server:
        status, _, response = await server.connect().request(request[:cut], request[cut:])

    assert status == 200
    echoed = orjson.loads(response)
    assert echoed["name"] == target.decode().removeprefix("/echo/")
    assert echoed["content"] == body.decode("latin-1")
