"""A reader of multipart/mixed bodies while they arrive, with bounds on everything but the content.

Spec: server-server API, Content Repository; RFC 2046, 5.1.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

MAX_HEADER_BYTES: Final = 8192
MAX_PREAMBLE_BYTES: Final = 8192
_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.ASCII)
_END_OF_HEADERS: Final = b"\r\n\r\n"


class MalformedMultipart(Exception):
    """The body is not multipart/mixed as its content type says, or ends too early."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary in a content type. Raises: MalformedMultipart."""
    match = _BOUNDARY.search(content_type)
    if match is None or not content_type.lower().startswith("multipart/"):
        raise MalformedMultipart("no multipart content type with a boundary")
    return (match[1] or match[2]).encode()


class MultipartReader:
    """Reads the parts of a body one after the other: `next_headers`, then the content."""

    def __init__(self, parts: AsyncIterable[bytes], boundary: bytes) -> None:
        self._parts = aiter(parts)
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter may be the beginning of the body.
        self._buffer = bytearray(b"\r\n")
        self._is_at_delimiter = False

    async def next_headers(self) -> dict[str, str]:
        """Return the headers of the next part, with names in lower case.

        Raises: MalformedMultipart.
        """
        if not self._is_at_delimiter:
            await self._read_until(self._delimiter, MAX_PREAMBLE_BYTES)
        self._is_at_delimiter = False
        block = await self._read_until(_END_OF_HEADERS, MAX_HEADER_BYTES)
        headers = {}
        for line in block.decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        return headers

    async def small_content(self, max_bytes: int) -> bytes:
        """Return the whole content of the part. Raises: MalformedMultipart."""
        content = await self._read_until(self._delimiter, max_bytes)
        self._is_at_delimiter = True
        return content

    async def content(self) -> AsyncGenerator[bytes, None]:
        """Yield the content of the part. Raises: MalformedMultipart."""
        buffer, delimiter = self._buffer, self._delimiter
        while (end := buffer.find(delimiter)) < 0:
            certain = len(buffer) - len(delimiter) + 1
            if certain > 0:
                yield bytes(buffer[:certain])
                del buffer[:certain]
            await self._receive()
        if end:
            yield bytes(buffer[:end])
        del buffer[: end + len(delimiter)]
        self._is_at_delimiter = True

    async def _read_until(self, end: bytes, max_bytes: int) -> bytes:
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end) + 1)
            if len(self._buffer) > max_bytes:
                break
            await self._receive()
        if not 0 <= found <= max_bytes:
            raise MalformedMultipart(f"a section has more than {max_bytes} bytes")
        content = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return content

    async def _receive(self) -> None:
        part = await anext(self._parts, None)
        if part is None:
            raise MalformedMultipart("the body ends before its last boundary")
        self._buffer += part
