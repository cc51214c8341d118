"""What a well-behaved client may rely on, and how a slow one is shown the door."""

import h11
import orjson
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.apis.web.http1_limits import HttpBounds
from tests.apis.web.conversation import EchoApi, echo_application, one_exchange, talking

HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with talking() as conversations:
        peer = conversations.connect()

        first = await peer.ask(HELLO)
        second = await peer.ask(post(b"/echo/a%2Fb", b"text"))

    assert first[0] == 200
    assert first[2] == b'{"hello":"world"}'
    assert second[2] == b'{"name":"a/b","content":"text"}'


async def test_pipelined_requests_are_answered_in_order() -> None:
    asked = b"".join(post(b"/echo/%d" % number, b"x" * number) for number in range(10))

    received = await one_exchange(asked)

    positions = [received.index(b'{"name":"%d"' % number) for number in range(10)]
    assert positions == sorted(positions)


async def test_a_request_may_arrive_byte_by_byte() -> None:
    request = post(b"/echo/a", b"hello")

    received = await one_exchange(*(request[at : at + 1] for at in range(len(request))))

    assert b'"content":"hello"' in received


async def test_chunked_bodies_are_joined() -> None:
    head = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"

    received = await one_exchange(head, b"3\r\nabc\r\n", b"A;x=y\r\n0123456789\r\n0\r\n\r\n", HELLO)

    assert b'"content":"abc0123456789"' in received
    assert b"world" in received


async def test_head_answers_with_the_length_and_without_the_body() -> None:
    received = await one_exchange(HELLO.replace(b"GET", b"HEAD") + HELLO)

    assert received.count(b"content-length: 17\r\n") == 2
    assert received.count(b"world") == 1


@pytest.mark.parametrize(("path", "status"), [(b"/nothing", b"204"), (b"/unchanged", b"304")])
async def test_statuses_without_a_body_have_no_length_either(path: bytes, status: bytes) -> None:
    received = await one_exchange(HELLO.replace(b"/hello", path))

    assert received.startswith(b"HTTP/1.1 " + status)
    assert b"content-length" not in received
    assert b"transfer-encoding" not in received
    assert received.endswith(b"\r\n\r\n")


async def test_a_streamed_answer_is_chunked() -> None:
    received = await one_exchange(HELLO.replace(b"/hello", b"/parts") + HELLO)

    assert b"transfer-encoding: chunked\r\n" in received
    assert b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n" in received
    assert b"world" in received


async def test_http_1_0_gets_a_plain_body_and_the_end_of_the_connection() -> None:
    received = await one_exchange(b"GET /parts HTTP/1.0\r\n\r\n" + HELLO)

    assert b"connection: close\r\n" in received
    assert received.endswith(b"\r\n\r\nonetwothree")


async def test_close_is_honoured() -> None:
    received = await one_exchange(HELLO[:-2] + b"Connection: x, Close\r\n\r\n" + HELLO)

    assert received.count(b"world") == 1
    assert b"connection: close\r\n" in received


async def test_absolute_targets_and_options_for_everything_are_understood() -> None:
    received = await one_exchange(
        HELLO.replace(b"/hello", b"http://elsewhere/hello?x"),
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    )

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 204 No Content" in received


async def test_continue_is_sent_once_the_body_is_wanted() -> None:
    async with talking() as conversations:
        peer = conversations.connect()
        await peer.send(post(b"/echo/a", b"", b"Expect: 100-continue").replace(b": 0", b": 3"))
        interim = bytes(await peer.stream.receive_some())

        answer = await peer.ask(b"abc")

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer[2] == b'{"name":"a","content":"abc"}'


async def test_a_body_nobody_wants_is_not_asked_for() -> None:
    received = await one_exchange(
        post(b"/unread", b"", b"Expect: 100-continue").replace(b": 0", b": 3")
    )

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in received


async def test_a_small_unread_body_is_passed_over() -> None:
    received = await one_exchange(post(b"/unread", b"x" * 1000) + HELLO)

    assert received.count(b"HTTP/1.1 200 OK") == 2


async def test_a_large_unread_body_ends_the_connection() -> None:
    received = await one_exchange(post(b"/unread", b"")[:-5] + b"900000\r\n\r\n" + b"x" * 1000)

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
async def test_bodies_are_bounded_per_endpoint(request_bytes: bytes) -> None:
    received = await one_exchange(request_bytes)

    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"M_TOO_LARGE" in received


async def test_uploads_are_read_as_they_come() -> None:
    parts = [b"x" * 50_000] * 20

    received = await one_exchange(
        b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", *parts
    )

    assert b'{"size":1000000}' in received


async def test_headers_cannot_be_injected_by_the_application() -> None:
    received = await one_exchange(HELLO.replace(b"/hello", b"/broken"))

    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in received


async def test_a_silent_peer_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with talking(bounds=HttpBounds(head_s=15)) as conversations:
        began = trio.current_time()

        assert await conversations.connect().until_closed() == b""

        assert 15 <= trio.current_time() - began < 18


async def test_a_head_that_drips_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with talking(bounds=HttpBounds(head_s=15)) as conversations:
        peer = conversations.connect()
        began = trio.current_time()

        with pytest.raises(trio.BrokenResourceError):
            await peer.drip(HELLO[:-2] + b"X: " + b"y" * 1000, every_s=5)

        assert trio.current_time() - began < 30


async def test_a_body_that_drips_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with talking(bounds=HttpBounds(body_grace_s=30)) as conversations:
        peer = conversations.connect()
        began = trio.current_time()
        await peer.send(b"POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")

        with pytest.raises(trio.BrokenResourceError):
            await peer.drip(b"x" * 900, every_s=5)

        assert trio.current_time() - began < 45


async def test_line_ends_between_requests_do_not_keep_a_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with talking(bounds=HttpBounds(keep_alive_s=60)) as conversations:
        peer = conversations.connect()
        await peer.ask(HELLO)
        began = trio.current_time()

        with pytest.raises(trio.BrokenResourceError):
            await peer.drip(b"\r\n" * 100, every_s=5)

        assert trio.current_time() - began < 75


async def test_an_idle_connection_is_kept_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with talking(bounds=HttpBounds(keep_alive_s=60)) as conversations:
        peer = conversations.connect()
        await peer.ask(HELLO)
        await trio.sleep(55)
        await peer.ask(HELLO)
        began = trio.current_time()

        assert await peer.until_closed() == b""

        assert 60 <= trio.current_time() - began < 65


async def test_a_handler_may_take_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with talking() as conversations:
        answer = await conversations.connect().ask(HELLO.replace(b"/hello", b"/wait?seconds=3600"))

    assert answer[0] == 200


async def test_a_client_that_hangs_up_cancels_a_handler_that_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = EchoApi()
    async with talking(echo_application(api)) as conversations:
        peer = conversations.connect()
        await peer.send(HELLO.replace(b"/hello", b"/wait?seconds=3600"))
        await api.waiting.wait()

        await peer.stream.aclose()

        with trio.fail_after(10):
            await api.cancelled.wait()


async def test_a_client_that_hangs_up_does_not_cancel_other_handlers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = EchoApi()
    async with talking(echo_application(api)) as conversations:
        peer = conversations.connect()
        await peer.send(HELLO.replace(b"/hello", b"/stubborn?seconds=60"))
        await api.waiting.wait()

        await peer.stream.aclose()
        await trio.sleep(61)

    assert api.finished == 1


async def test_a_request_sent_during_a_long_poll_is_answered_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with talking() as conversations:
        peer = conversations.connect()
        await peer.send(HELLO.replace(b"/hello", b"/wait?seconds=30"))
        await trio.sleep(1)

        await peer.send(HELLO)

        assert (await peer.response())[2] == b"{}"
        assert (await peer.response())[2] == b'{"hello":"world"}'


_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1)
_VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
_FORBIDDEN_NAMES = {"host", "content-length", "transfer-encoding", "connection", "expect"}


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    """Requests as h11's client writes them, some chunked."""
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
async def test_valid_requests_read_as_h11_reads_them(request: bytes, cut: int) -> None:
    target, body = read_by_h11(request)

    async with talking() as conversations:
        status, _, answer = await conversations.connect().ask(request[:cut], request[cut:])

    assert status == 200
    echoed = orjson.loads(answer)
    assert echoed["name"] == target.decode().removeprefix("/echo/")
    assert echoed["content"] == body.decode("latin-1")
