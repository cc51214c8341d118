"""HTTP/1.1 as a client: requests are written, and responses parsed, strictly and within bounds.

The servers are not trusted. Rules:

- What is sent has no more lines than were meant: names, values and the target are checked.
- The head of a response has at most MAX_HEAD_BYTES and MAX_FIELDS. Lines end with CRLF, and nothing
  precedes the status line. Of interim responses, at most MAX_INTERIM are skipped.
- The length of a body must be clear: by Transfer-Encoding, which must be `chunked`, or by one
  Content-Length, never by both; else the body ends with the connection.
- Whatever is not content, such as sizes of chunks and trailers, is bounded by OVERHEAD_BYTES and
  the size of the content.
- A connection from which more was received than the response cannot be used again.

Spec: RFC 9110, RFC 9112.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import attrs

from hs.lib.http_client import HttpBlocked, HttpUnreachable

MAX_HEAD_BYTES: Final = 1 << 16
MAX_FIELDS: Final = 200
MAX_INTERIM: Final = 20
MAX_CHUNK_LINE_BYTES: Final = 1024
OVERHEAD_BYTES: Final = 1 << 18
MAX_URI_CHARS: Final = 8192
CACHED_NAME_CHARS: Final = 64

_CONTROLS: Final = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\r\n")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?", re.DOTALL)
_LENGTH: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[\t ]*(?:;.*)?")
_URI: Final = re.compile(r"/[!\"$-\[\]-~]*")  # printable ASCII but # and \
_AUTHORITY: Final = re.compile(r"[!-~]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_WITHOUT_BODY: Final = frozenset((204, 304))
_SWITCHING_PROTOCOLS: Final = 101


@attrs.frozen(eq=False)
class ResponseHead:
    """The status and the headers; their names are in lower case, values of one name are joined."""

    status: int
    headers: Mapping[str, str]


def encode_request(
    method: str, uri: str, headers: Mapping[str, str], body: bytes | None = None
) -> bytes:
    """Return a request; the `headers` include `host`, but nothing about the body.

    Raises: HttpBlocked, for characters that would change the structure of the request.
    """
    if len(uri) > MAX_URI_CHARS:
        raise HttpBlocked("the URL is too long")
    if not _URI.fullmatch(uri):
        raise HttpBlocked("the URL contains characters that must be percent-encoded")
    return _encode(method, uri, headers, body)


def encode_connect(authority: str, headers: Mapping[str, str]) -> bytes:
    """Return the request to a proxy for a tunnel. Raises: HttpBlocked."""
    if not _AUTHORITY.fullmatch(authority):
        raise HttpBlocked(f"{authority!r:.60} is not a host and a port")
    return _encode("CONNECT", authority, {"host": authority, **headers}, None)


def _encode(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\n"
    for name, value in headers.items():
        if not _is_token(name):
            raise HttpBlocked(f"{name!r:.60} is not the name of a header")
        head += f"{name}: {value}\r\n"
    lines = len(headers) + 1
    if head.count("\r") != lines or head.count("\n") != lines or "\0" in head:
        raise HttpBlocked("a header contains characters that are not allowed")
    if body is None:
        return f"{head}\r\n".encode("utf-8", "replace")
    return f"{head}content-length: {len(body)}\r\n\r\n".encode("utf-8", "replace") + body


@lru_cache(maxsize=100)
def _is_token(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None


class ResponseParser:
    """Parses the response to one request, from the bytes of a connection as they arrive.

    `feed` and `feed_end` raise HttpFault for a response that is not valid; nothing can be received
    from its connection after that.
    """

    __slots__ = (
        "_buffer",
        "_interim",
        "_is_counted",
        "_is_head_request",
        "_left",
        "_overhead",
        "_received",
        "_scanned",
        "_step",
        "has_begun",
        "head",
        "is_complete",
        "is_persistent",
    )

    def __init__(self, method: str) -> None:
        self.head: ResponseHead | None = None
        self.has_begun = False
        self.is_complete = False
        self.is_persistent = False  # whether the connection may be used for another request
        self._buffer = bytearray()
        self._step: Callable[[list[bytes]], bool] = self._take_head
        self._scanned = 0
        self._interim = 0
        self._is_counted = False
        self._is_head_request = method == "HEAD"
        self._left = 0  # of the body or of the chunk
        self._received = 0  # content of chunks
        self._overhead = 0

    @property
    def content_length(self) -> int | None:
        """The length of the body if the head says it."""
        length = self.head.headers.get("content-length") if self.head is not None else None
        return None if length is None or self._is_head_request else int(length)

    def feed(self, received: bytes) -> bytes:
        """Parse what was received, at least one byte; return the content in it."""
        self.has_begun = True
        if self.is_complete:
            self.is_persistent = False
            return b""
        if self._is_counted and not self._buffer and len(received) <= self._left:
            # The bulk of a large body is passed on as it is.
            self._left -= len(received)
            self.is_complete = not self._left
            return received
        self._buffer += received
        content: list[bytes] = []
        while self._step(content):
            pass
        if self.is_complete and self._buffer:
            self.is_persistent = False
        return content[0] if len(content) == 1 else b"".join(content)

    def feed_end(self) -> None:
        """Note that the server has closed the connection."""
        self.is_persistent = False
        if self.is_complete:
            return
        if self._step == self._take_until_end:
            self.is_complete = True
        elif self.has_begun:
            raise HttpUnreachable("the connection was closed before the end of the response")
        else:
            raise HttpUnreachable("the connection was closed without a response")

    # Each step takes what it can from the buffer, and returns whether the next one can go on.

    def _take_head(self, content: list[bytes]) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", self._scanned)
        if end > MAX_HEAD_BYTES or (end < 0 and len(buffer) > MAX_HEAD_BYTES):
            raise HttpUnreachable(f"the head of the response exceeds {MAX_HEAD_BYTES} bytes")
        if end < 0:
            if not b"HTTP/1.".startswith(bytes(buffer[:7])):
                raise HttpUnreachable("the response does not begin with a status line")
            self._scanned = max(0, len(buffer) - 3)
            return False
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        self._scanned = 0
        version, status, headers = _parse_head(head)
        if status >= 200:
            self._begin_body(version, status, headers)
            return not self.is_complete
        self._interim += 1
        if status == _SWITCHING_PROTOCOLS or self._interim > MAX_INTERIM:
            raise HttpUnreachable("the server sends responses that were not asked for")
        return True

    def _begin_body(self, version: str, status: int, headers: Mapping[str, str]) -> None:
        self.is_persistent = version == "1" and not _closes(headers.get("connection"))
        self.head = ResponseHead(status, headers)
        encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if length is not None and not _LENGTH.fullmatch(length):
            raise HttpUnreachable("the response has an invalid content-length")
        if encoding is not None and (
            length is not None or version != "1" or encoding.lower() != "chunked"
        ):
            raise HttpUnreachable("the length of the response is ambiguous")
        if self._is_head_request or status in _WITHOUT_BODY:
            self.is_complete = True
        elif encoding is not None:
            self._step = self._take_chunk_line
        elif length is not None:
            self._left = int(length)
            self._step = self._take_counted
            self._is_counted = True
            self.is_complete = not self._left
        else:
            self.is_persistent = False
            self._step = self._take_until_end

    def _take_counted(self, content: list[bytes]) -> bool:
        self._take_content(content)
        self.is_complete = not self._left
        return False

    def _take_until_end(self, content: list[bytes]) -> bool:
        self._left = len(self._buffer)
        self._take_content(content)
        return False

    def _take_chunk_line(self, content: list[bytes]) -> bool:
        line = self._take_line()
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise HttpUnreachable("the response has an invalid chunk")
        self._left = int(match[1], 16)
        self._step = self._take_chunk if self._left else self._take_trailer
        return True

    def _take_chunk(self, content: list[bytes]) -> bool:
        if self._left:
            self._received += self._take_content(content)
            if self._left:
                return False
        if len(self._buffer) < 2:
            return False
        if not self._buffer.startswith(b"\r\n"):
            raise HttpUnreachable("the response has an invalid chunk")
        del self._buffer[:2]
        self._step = self._take_chunk_line
        return True

    def _take_trailer(self, content: list[bytes]) -> bool:
        line = self._take_line()
        if line:
            _field(line.decode("utf-8", "replace"))
        elif line is not None:
            self.is_complete = True
        return bool(line)

    def _take_line(self) -> bytes | None:
        """Take a line that is not content; return None if it is not complete."""
        buffer = self._buffer
        end = buffer.find(b"\r\n", 0, MAX_CHUNK_LINE_BYTES + 2)
        if end < 0:
            if len(buffer) >= MAX_CHUNK_LINE_BYTES + 2:
                raise HttpUnreachable("the response has an invalid chunk")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._overhead += end + 4
        if self._overhead - self._received > OVERHEAD_BYTES:
            raise HttpUnreachable("the response has almost no content")
        _check_text(line, 0)
        return line

    def _take_content(self, content: list[bytes]) -> int:
        buffer = self._buffer
        if len(buffer) <= self._left:
            part = bytes(buffer)
            buffer.clear()
        else:
            part = bytes(buffer[: self._left])
            del buffer[: self._left]
        self._left -= len(part)
        if part:
            content.append(part)
        return len(part)


def _parse_head(head: bytes) -> tuple[str, int, Mapping[str, str]]:
    """Return the last digit of the version, the status and the headers."""
    # Decoded at once: the bytes of all delimiters have no other meaning in UTF-8.
    status_line, *lines = head.decode("utf-8", "replace").split("\r\n")
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise HttpUnreachable("the response does not begin with a status line")
    if len(lines) > MAX_FIELDS:
        raise HttpUnreachable(f"the response has more than {MAX_FIELDS} headers")
    _check_text(head, len(lines))
    headers: dict[str, str] = {}
    for line in lines:
        name, value = _field(line)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return match[1], int(match[2]), headers


def _closes(connection: str | None) -> bool:
    return connection is not None and "close" in map(str.strip, connection.lower().split(","))


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise HttpUnreachable("the response has an invalid header")
    name = _lower_case(name) if len(name) <= CACHED_NAME_CHARS else _lower_case_of(name)
    return name, value.strip("\t ")


def _lower_case_of(name: str) -> str:
    """Return the name of a header in lower case. Raises: HttpUnreachable."""
    if not _TOKEN.fullmatch(name):
        raise HttpUnreachable("the response has an invalid header")
    return name.lower()


_lower_case = lru_cache(maxsize=1000)(_lower_case_of)


def _check_text(text: bytes, breaks: int) -> None:
    """Check that a text has no control characters but a number of line breaks."""
    if (
        text.count(b"\r") != breaks
        or text.count(b"\n") != breaks
        or len(text.translate(None, _CONTROLS)) != len(text)
    ):
        raise HttpUnreachable("the response has control characters in a header")
