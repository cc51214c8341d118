"""HTTP/1.1 responses into bytes: framing, and head and body in one piece where possible.

Spec: RFC 9112, sections 4, 6 and 9.3; RFC 9110, 8.6 and 15.
"""

from email.utils import formatdate
from functools import cache
from http import HTTPStatus

from hs.apis.web.http1_parser import Incoming, Refusal

Headers = list[tuple[bytes, bytes]]
_BODILESS = (204, 304)


class BrokenResponse(Exception):
    """The application broke the rules of HTTP; nothing more may be sent on this connection."""


@cache
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


def date_line() -> bytes:
    """Write the Date header of now."""
    return f"date: {formatdate(usegmt=True)}\r\n".encode("ascii")


class Writer:
    """Writes the response to one request."""

    __slots__ = ("_bodiless", "_chunked", "_head", "_left", "_request", "ended", "keep_alive")

    def __init__(self, request: Incoming, keep_alive: bool) -> None:
        self._request = request
        self._head: bytes | None = None
        self._left: int | None = None
        self._chunked = False
        self._bodiless = False
        self.keep_alive = keep_alive
        self.ended = False

    @property
    def has_begun(self) -> bool:
        """Tell whether a head was written."""
        return self._head is not None

    def start(self, status: int, headers: Headers, date: bytes) -> None:
        """Compose the head. Raises: BrokenResponse."""
        if self._head is not None:
            raise BrokenResponse("A response begins once")
        head = [_status_line(status)]
        for name, value in headers:
            if name == b"content-length":
                self._left = int(value)
                if status in _BODILESS:
                    continue
            elif name == b"connection" or name == b"transfer-encoding":
                continue
            head.append(b"%b: %b\r\n" % (name, value))
        head.append(date)
        if status in _BODILESS or self._request.method == "HEAD":
            self._bodiless = True
        elif self._left is None:
            # Without a length, HTTP/1.0 knows only the end of the connection.
            if self._request.version == "1.1":
                self._chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        self._head = b"".join(head) + b"\r\n"
        lines = self._head.count(b"\n")
        if lines != len(head) + 1 or self._head.count(b"\r") != lines or b"\0" in self._head:
            self._head = None
            raise BrokenResponse("A header holds control characters")

    def whole(self, head: bytes, body: bytes, date: bytes) -> bytes:
        """Give the bytes of a response whose head was composed before. Raises: BrokenResponse."""
        if self._head is not None or self.ended:
            raise BrokenResponse("A response begins once")
        self._head = b""
        self.ended = True
        text = b"%b%bcontent-length: %d\r\n%b\r\n" % (
            head,
            date,
            len(body),
            b"" if self.keep_alive else b"connection: close\r\n",
        )
        return text if self._request.method == "HEAD" else text + body

    def body(self, part: bytes, more: bool) -> bytes:
        """Give the bytes to send for a part of the body. Raises: BrokenResponse."""
        if self._head is None or self.ended:
            raise BrokenResponse("A body comes after its head and ends once")
        self.ended = not more
        head, self._head = self._head, b""
        if self._bodiless:
            return head
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(part), part) if part else b""
            return head + framed + (b"" if more else b"0\r\n\r\n")
        if self._left is not None:
            self._left -= len(part)
            if self._left < 0 or (not more and self._left):
                raise BrokenResponse("The body is not as long as it was said to be")
        return head + part if head else part


def head_of(status: int, headers: Headers) -> bytes:
    """Compose the part of a head that many responses share, for `Writer.whole`."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return _status_line(status) + b"".join(lines)


def refusal_bytes(refusal: Refusal, date: bytes) -> bytes:
    """Write a whole response for a peer that broke the protocol."""
    reason = refusal.reason.encode("ascii", "replace").replace(b'"', b"'").replace(b"\\", b"/")
    body = b'{"errcode":"%b","error":"%b"}' % (refusal.errcode.encode("ascii"), reason)
    return (
        b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (
            _status_line(refusal.status),
            date,
            len(body),
            body,
        )
    )
