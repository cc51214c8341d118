"""The HTTP/1.1 response writer: turns the parts of a response into bytes to send.

Rules:

- Only the writer decides the framing. It drops Connection and Transfer-Encoding headers of the
  application. The end of the body is marked by Content-Length if the application has set it,
  otherwise by the chunked coding, or for HTTP/1.0 by closing the connection.
- The bytes of the body are counted against Content-Length. A body of a different length is an
  InvalidResponse, raised before the surplus is sent: the client would take it for the next
  response.
- Responses to HEAD, 204 and 304 have no body, whatever the application sends.
- A CR, LF or NUL in a header is an InvalidResponse, raised before anything is sent (response
  splitting).
- After InvalidResponse the connection closes; a 500 may be sent first if no head was written.
- The head is returned together with the first part of the body, so that a small response is one
  system call.

Spec: RFC 9112, sections 4, 6 and 9.3; RFC 9110, 8.6 and 15.
"""

from email.utils import formatdate
from functools import cache
from http import HTTPStatus

from hs.apis.web.http1_parser import Http1Request, Http2Rejected, HttpError

Headers = list[tuple[bytes, bytes]]
_STATUSES_WITHOUT_BODY = (204, 304)
# An empty SETTINGS frame, then GOAWAY with last stream 0 and the error HTTP_1_1_REQUIRED.
_HTTP2_GOAWAY = b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\0\0\0\0\x0d"


class InvalidResponse(Exception):
    """A response of the application that breaks the rules of HTTP."""


@cache
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


def date_header() -> bytes:
    """Return the line of the Date header with the current time."""
    return f"date: {formatdate(usegmt=True)}\r\n".encode("ascii")


class ResponseHead:
    """The head of many responses, without Date, length and Connection."""

    __slots__ = ("encoded", "headers", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.encoded = _status_line(status) + b"".join(lines)


class ResponseWriter:
    """The writer of the response to one request."""

    __slots__ = (
        "_chunked",
        "_head",
        "_omits_body",
        "_remaining_bytes",
        "_request",
        "finished",
        "keep_alive",
    )

    def __init__(self, request: Http1Request, keep_alive: bool) -> None:
        self._request = request
        # None before start(); b"" once body() has returned the head.
        self._head: bytes | None = None
        self._remaining_bytes: int | None = None
        self._chunked = False
        self._omits_body = False
        self.keep_alive = keep_alive
        self.finished = False

    @property
    def has_started(self) -> bool:
        """Whether a head was written."""
        return self._head is not None

    def start(self, status: int, headers: Headers, date: bytes) -> None:
        """Write the head, which the first call of body() returns. Raises: InvalidResponse."""
        if self._head is not None:
            raise InvalidResponse("The response has already started")
        head = [_status_line(status)]
        for name, value in headers:
            if name == b"content-length":
                self._remaining_bytes = int(value)
                if status in _STATUSES_WITHOUT_BODY:
                    continue
            elif name == b"connection" or name == b"transfer-encoding":
                continue
            head.append(b"%b: %b\r\n" % (name, value))
        head.append(date)
        if status in _STATUSES_WITHOUT_BODY or self._request.method == "HEAD":
            self._omits_body = True
        elif self._remaining_bytes is None:
            # Without a length, HTTP/1.0 can mark the end of a body only by closing.
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
            raise InvalidResponse("Control character in a response header")

    @property
    def omits_body(self) -> bool:
        """Whether the response to this request has no body."""
        return self._request.method == "HEAD"

    def complete_response(self, head: ResponseHead, body_bytes: int, date: bytes) -> bytes:
        """Return the whole head of a response that is sent at once with its body.

        Raises: InvalidResponse.
        """
        if self._head is not None or self.finished:
            raise InvalidResponse("The response has already started")
        self._head = b""
        self.finished = True
        return b"%b%bcontent-length: %d\r\n%b\r\n" % (
            head.encoded,
            date,
            body_bytes,
            b"" if self.keep_alive else b"connection: close\r\n",
        )

    def switching_protocols(self, protocol: str) -> bytes:
        """Return the head after which the connection has another protocol.

        Raises: InvalidResponse.
        """
        if self._head is not None or self.finished:
            raise InvalidResponse("The response has already started")
        self._head = b""
        self.finished, self.keep_alive = True, False
        line = _status_line(101)
        return b"%bconnection: upgrade\r\nupgrade: %b\r\n\r\n" % (line, protocol.encode("ascii"))

    def body(self, part: bytes, more: bool) -> bytes:
        """Return the bytes to send for a part of the body. Raises: InvalidResponse."""
        if self._head is None or self.finished:
            raise InvalidResponse("A body part must follow the head and precede the end")
        self.finished = not more
        head, self._head = self._head, b""
        if self._omits_body:
            return head
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(part), part) if part else b""
            return head + framed + (b"" if more else b"0\r\n\r\n")
        if self._remaining_bytes is not None:
            self._remaining_bytes -= len(part)
            if self._remaining_bytes < 0 or (not more and self._remaining_bytes):
                raise InvalidResponse("The body length does not match Content-Length")
        return head + part if head else part


def error_response_bytes(error: HttpError, date: bytes) -> bytes:
    """Return a whole response, which announces that the connection closes.

    Spec: RFC 9113, sections 3.4, 6.8 and 7, for clients that speak HTTP/2.
    """
    if isinstance(error, Http2Rejected):
        return _HTTP2_GOAWAY
    reason = error.reason.encode("ascii", "replace").replace(b'"', b"'").replace(b"\\", b"/")
    body = b'{"errcode":"%b","error":"%b"}' % (error.errcode.encode("ascii"), reason)
    return (
        b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (
            _status_line(error.status),
            date,
            len(body),
            body,
        )
    )
