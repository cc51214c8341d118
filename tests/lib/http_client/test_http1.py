"""Requests are written and responses parsed strictly, whatever the other side sends."""

from collections.abc import Iterator, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.http_client import HttpBlocked, HttpFault, HttpUnreachable
from hs.lib.http_client.http1 import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_INTERIM,
    ResponseParser,
    encode_connect,
    encode_request,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"

names = st.from_regex(r"x-[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126)).map(str.strip)


def parse(
    parts: Sequence[bytes], method: str = "GET", has_ended: bool = False
) -> tuple[object, ...]:
    """Return status, headers, body, completeness, and whether the connection can be used again."""
    parser = ResponseParser(method)
    body = b"".join([parser.feed(part) for part in parts])
    if has_ended:
        parser.feed_end()
    head = parser.head
    return (
        head and head.status,
        head and dict(head.headers),
        body,
        parser.is_complete,
        parser.is_persistent,
    )


@attrs.frozen
class Sent:
    """A valid response as a server may send it."""

    raw: bytes
    status: int
    headers: dict[str, str]
    body: bytes
    ends_connection: bool


@st.composite
def valid_responses(draw: st.DrawFn) -> Sent:
    status = draw(st.integers(200, 599).filter(lambda status: status not in (204, 304)))
    headers = draw(st.dictionaries(names, values, max_size=5))
    body = draw(st.binary(max_size=300))
    framing = draw(st.sampled_from(["length", "chunks", "end"]))
    fields = [(name, value) for name, value in headers.items()]
    if framing == "length":
        fields.append(("Content-Length", str(len(body))))
        content = body
    elif framing == "chunks":
        fields.append(("Transfer-Encoding", "chunked"))
        content = b"".join(draw(chunks_of(body)))
    else:
        content = body
    head = f"HTTP/1.1 {status} {draw(values)}\r\n"
    for name, value in fields:
        spaces = draw(st.sampled_from(["", " ", " \t"]))
        head += f"{name}:{spaces}{value}\r\n"
    raw = INTERIM * draw(st.integers(0, 2)) + f"{head}\r\n".encode() + content
    expected = {name.lower(): value for name, value in fields}
    return Sent(raw, status, expected, body, framing == "end")


@st.composite
def chunks_of(draw: st.DrawFn, body: bytes) -> list[bytes]:
    sizes: list[int] = []
    while sum(sizes) < len(body):
        sizes.append(draw(st.integers(1, len(body) - sum(sizes))))
    encoded: list[bytes] = []
    position = 0
    for size in sizes:
        extension = draw(st.sampled_from(["", ";a=b", " ;x"]))
        chunk = body[position : position + size]
        encoded.append(f"{size:x}{extension}\r\n".encode() + chunk + b"\r\n")
        position += size
    return [*encoded, b"0\r\n", *draw(st.sampled_from([[], [b"x-sum: 1\r\n"]])), b"\r\n"]


def split_at(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    ends = [*sorted({cut % max(len(raw), 1) for cut in cuts}), len(raw)]
    begins = [0, *ends]
    return [raw[begin:end] for begin, end in zip(begins, ends, strict=False) if begin < end]


@given(valid_responses(), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_response_does_not_depend_on_how_it_is_cut(sent: Sent, cuts: list[int]) -> None:
    parsed = parse(split_at(sent.raw, cuts), has_ended=sent.ends_connection)

    assert parsed == (sent.status, sent.headers, sent.body, True, not sent.ends_connection)


@given(valid_responses())
def test_response_received_byte_by_byte(sent: Sent) -> None:
    parts = [sent.raw[at : at + 1] for at in range(len(sent.raw))]

    assert parse(parts, has_ended=sent.ends_connection)[2:4] == (sent.body, True)


@given(valid_responses(), st.data())
def test_truncated_response_is_never_complete(sent: Sent, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(sent.raw) - 1))
    head_end = len(sent.raw) - len(sent.body)
    parser = ResponseParser("GET")

    parser.feed(sent.raw[:cut])

    if sent.ends_connection and cut >= head_end:
        return  # such a body has no other end
    assert not parser.is_complete
    with pytest.raises(HttpUnreachable, match="before the end"):
        parser.feed_end()


@given(valid_responses(), st.binary(min_size=1, max_size=20))
def test_bytes_after_the_response_end_the_connection(sent: Sent, surplus: bytes) -> None:
    if sent.ends_connection:
        return

    assert parse([sent.raw + surplus])[2:] == (sent.body, True, False)
    assert parse([sent.raw, surplus])[2:] == (sent.body, True, False)


@given(valid_responses(), st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=3))))
def test_damaged_response_is_parsed_or_refused(
    sent: Sent, damages: list[tuple[int, bytes]]
) -> None:
    raw = bytearray(sent.raw)
    for at, content in damages:
        raw[at % len(raw) : at % len(raw) + len(content)] = content

    try:
        body = parse([bytes(raw)])[2]
    except HttpFault:
        return

    assert isinstance(body, bytes)
    assert len(body) <= len(raw)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20))
def test_garbage_is_refused_or_incomplete(parts: list[bytes]) -> None:
    try:
        parsed = parse(parts)
    except HttpFault:
        return

    assert parsed[0] is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n" + OK,
        b"\0" + OK,
        b"<html>502 Bad Gateway</html>",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 -20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: +1\r\n\r\n",
        OK + b"content-length: 0x10\r\n\r\n",
        OK + b"content-length: 1_0\r\n\r\n",
        OK + b"content-length: 1 0\r\n\r\n",
        OK + b"content-length: \xd9\xa1\r\n\r\n",  # a digit, but not of ASCII
        OK + b"content-length: \r\n\r\n",
        OK + b"content-length: 9999999999999999999\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        OK + b"content-length: 5, 5\r\n\r\n",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        OK + b"transfer-encoding: identity\r\n\r\n",
        OK + b"transfer-encoding: \x0bchunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"name : value\r\n\r\n",
        OK + b"name: value\r\n folded\r\n\r\n",
        OK + b" name: value\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"nocolon\r\n\r\n",
        OK + b": no name\r\n\r\n",
        OK + b"na\xc3\xafve: value\r\n\r\n",
        OK + b"name: va\0lue\r\n\r\n",
        OK + b"name: va\rlue\r\n\r\n",
        OK + b"name: va\nlue\r\n\r\n",
        OK + b"name: value\n\r\n\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"+1\r\n",
        CHUNKED + b"0x1\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b" 1\r\n",
        CHUNKED + b"1ffffffffffffffff\r\n",
        CHUNKED + b"1\r\nab\r\n",
        CHUNKED + b"1\nab\r\n\r\n",
        CHUNKED + b"1;a=\0\r\n",
        CHUNKED + b"0\r\nno colon\r\n\r\n",
        CHUNKED + b"0\r\nnocolon\r\n\r\n",
    ],
)
def test_hostile_response_is_refused(raw: bytes) -> None:
    with pytest.raises(HttpUnreachable):
        parse([raw])
    with pytest.raises(HttpUnreachable):
        parse([raw[at : at + 1] for at in range(len(raw))])


def endless(first: bytes, rest: bytes) -> Iterator[bytes]:
    yield first
    for _ in range((1 << 22) // len(rest)):
        yield rest


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (OK, b"a: b\r\n" * 100),
        (OK, b"a: " + b"b" * 1000 + b"\r\n"),
        (OK + b"a: ", b"b" * 1000),
        (b"", INTERIM),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (CHUNKED, b"1;" + b"x" * 500 + b"\r\na\r\n"),
        (CHUNKED + b"1", b"0" * 1000),
        (CHUNKED + b"1;", b"x" * 1000),
        (CHUNKED, b"1\r\na\r\n" * 100),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 100),
        (CHUNKED + b"0\r\na: ", b"b" * 1000),
    ],
)
def test_endless_response_without_content_is_given_up(first: bytes, rest: bytes) -> None:
    parts = [part for part in endless(first, rest) if part]

    with pytest.raises(HttpUnreachable):
        parse(parts)


def test_limits_are_exact() -> None:
    filler = b"a: " + b"b" * (MAX_HEAD_BYTES - len(OK) - 3)
    fields = b"a: b\r\n" * MAX_FIELDS

    assert parse([OK + filler + b"\r\n\r\n"])[0] == 200
    assert parse([OK + fields + b"\r\n"])[0] == 200
    assert parse([INTERIM * MAX_INTERIM + OK + b"\r\n"])[0] == 200
    for raw in (
        OK + filler + b"b\r\n\r\n",
        OK + fields + b"a: b\r\n\r\n",
        INTERIM * (MAX_INTERIM + 1) + OK + b"\r\n",
    ):
        with pytest.raises(HttpUnreachable):
            parse([raw])


@pytest.mark.parametrize(
    ("raw", "method"),
    [
        (OK + b"content-length: 5\r\n\r\n", "HEAD"),
        (OK + b"transfer-encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "GET"),
        (OK + b"content-length: 0\r\n\r\n", "GET"),
    ],
)
def test_response_without_body_is_complete(raw: bytes, method: str) -> None:
    assert parse([raw], method)[2:] == (b"", True, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na",
        OK + b"content-length: 1\r\nconnection: close\r\n\r\na",
        OK + b"content-length: 1\r\nconnection: x, Close\r\n\r\na",
        OK + b"content-length: 1\r\nconnection: x\r\nconnection: close\r\n\r\na",
    ],
)
def test_connection_that_the_server_closes_is_not_used_again(raw: bytes) -> None:
    assert parse([raw])[2:] == (b"a", True, False)


def test_connection_closed_without_a_byte_is_told_apart() -> None:
    parser = ResponseParser("GET")

    with pytest.raises(HttpUnreachable, match="without a response"):
        parser.feed_end()

    assert not parser.has_begun


def test_values_of_one_name_are_joined_and_invalid_utf8_is_replaced() -> None:
    raw = OK + b"A: 1\r\na:2\r\nb: \xff\xc3\xa4\r\ncontent-length: 0\r\n\r\n"

    assert parse([raw])[1] == {"a": "1, 2", "b": "\ufffdä", "content-length": "0"}


any_text = st.text(st.one_of(st.characters(), st.sampled_from("\r\n\0 :\t")), max_size=20)


@given(
    st.one_of(any_text, st.just("/path?a=b"), any_text.map(lambda text: f"/{text}")),
    st.dictionaries(st.one_of(any_text, st.just("name")), any_text, max_size=3),
    st.one_of(st.none(), st.binary(max_size=10)),
)
def test_request_cannot_be_injected(uri: str, headers: dict[str, str], body: bytes | None) -> None:
    try:
        raw = encode_request("GET", uri, {"host": "a", **headers}, body)
    except HttpBlocked:
        return

    head, _, content = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("utf-8").split("\r\n")
    assert first == f"GET {uri} HTTP/1.1"
    assert first.count(" ") == 2
    names = list({"host": "a", **headers})
    if body is not None:
        names.append("content-length")
    assert [line.partition(": ")[0] for line in lines] == names
    assert content == (body or b"")


@pytest.mark.parametrize("authority", ["a b:1", "a\r\nx: y", "a\0"])
def test_tunnel_cannot_be_injected(authority: str) -> None:
    with pytest.raises(HttpBlocked):
        encode_connect(authority, {})
