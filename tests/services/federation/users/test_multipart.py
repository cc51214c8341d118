"""Multipart bodies that arrive in pieces, and malformed ones."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import trio

from hs.services.federation.users.multipart import (
    MalformedMultipart,
    MultipartReader,
    boundary_of,
)

CONTENT = b"one\r\n--\r\n--bound\r\ntwo\r\n-"
BODY = (
    b"--boundary\r\nContent-Type: application/json\r\n\r\n{}\r\n--boundary\r\n"
    b"Content-Type: text/plain\r\nX-Name:  a: b \r\n\r\n" + CONTENT + b"\r\n--boundary--\r\n"
)


async def pieces(body: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), size):
        await trio.lowlevel.checkpoint()
        yield body[start : start + size]


async def read(body: bytes, size: int = 7) -> tuple[bytes, dict[str, str], bytes]:
    async with aclosing(pieces(body, size)) as parts:
        reader = MultipartReader(parts, b"boundary")
        await reader.next_headers()
        metadata = await reader.small_content(100)
        headers = await reader.next_headers()
        return metadata, headers, b"".join([part async for part in reader.content()])


@pytest.mark.parametrize("size", [1, 2, 5, 11, 13, 1000])
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"to be ignored\r\n"])
async def test_body_in_pieces_of_any_size_is_read(size: int, preamble: bytes) -> None:
    metadata, headers, content = await read(preamble + BODY, size)

    assert metadata == b"{}"
    assert headers == {"content-type": "text/plain", "x-name": "a: b"}
    assert content == CONTENT


async def test_empty_headers_and_content_are_read() -> None:
    body = b"--boundary\r\n\r\n{}\r\n--boundary\r\n\r\n\r\n--boundary--"

    assert await read(body) == (b"{}", {}, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        BODY[:20],
        BODY[:-16],
        b"x" * 10_000,
        b"--boundary\r\n" + b"a: b\r\n" * 2000,
        b"--boundary\r\n\r\n" + b"x" * 200 + b"\r\n--boundary\r\n\r\n\r\n--boundary--",
    ],
)
async def test_malformed_body_is_rejected(body: bytes) -> None:
    with pytest.raises(MalformedMultipart):
        await read(body)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/mixed; boundary=abc", b"abc"),
        ('Multipart/mixed; charset=x;boundary="a b"', b"a b"),
    ],
)
def test_boundary_is_found(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    ["", "multipart/mixed", "text/plain; boundary=a", 'multipart/mixed; boundary=""'],
)
def test_content_type_without_boundary_is_rejected(content_type: str) -> None:
    with pytest.raises(MalformedMultipart):
        boundary_of(content_type)
