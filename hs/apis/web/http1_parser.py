"""The HTTP/1.1 request parser: httptools splits the bytes, this module rejects what it accepts.

Rules:

- Input that two HTTP implementations could read differently is rejected, never repaired, because
  request smuggling needs such input. A request must have exactly one Host header (HTTP/1.0: at
  most one), and its body at most one Content-Length of plain digits or one `chunked` transfer
  coding, never both. Spaces, control characters, unknown codings and lists of values in these
  headers are errors.
- The first error is final. The parser ignores all further input; the connection answers the
  requests before the error, sends the error and closes.
- Sizes are limited while input arrives, not when it is complete, because httptools reports a header
  only once it has all of it. `head_bytes` limits the bytes received for a head, and also the bytes
  between two parts of a body: chunk sizes, their extensions, trailers.
- Trailers are dropped, so that a trailer cannot pass for a header.
- Requests are parsed as soon as they arrive, even while an earlier one is being answered.
  `pipelined_requests` limits how many wait; the caller stops reading while it is busy.
- An Upgrade is ignored, as RFC 9110 allows. httptools takes the bytes after such a head for the
  other protocol, so a new parser is fed the same request without its Upgrade header, followed by
  those bytes. No byte is lost, and a request is parsed again at most once.
- HTTP/2 with prior knowledge is recognized by the first bytes of a connection, and rejected as
  HTTP/2 demands. If these bytes arrive in pieces, the client gets an HTTP/1.1 error.

Spec: RFC 9112, sections 2.2, 3.2, 5, 6.1-6.3, 7.1, 11.2; RFC 9110, section 7.8; RFC 9113, 3.3.
"""

import re
from collections import deque

import httptools

from hs.apis.web.http1_limits import HttpLimits

_ABSOLUTE_TARGET = re.compile(rb"(?i:https?)://[^/?#@]+((?:[/?].*)?)", re.DOTALL)
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%-]+(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_TARGET = re.compile(rb"[!\"$-~]+")
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
_CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING_HEADERS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect")
)
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"
_REQUEST_LINE_BYTES = 2048
_REQUEST_LINE = re.compile(
    rb"(?:\A|\n)(?P<method>[A-Za-z0-9!#$%&'*+.^_`|~-]+) [!-~]+ HTTP/1\.[01]\r\n"
)


class HttpError(Exception):
    """An error of the client or a limit it exceeded; the connection closes with this status."""

    def __init__(self, status: int, reason: str, errcode: str = "M_UNKNOWN") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.errcode = errcode


class Http2Rejected(HttpError):
    """The client speaks HTTP/2, which is not served."""

    def __init__(self) -> None:
        super().__init__(505, "HTTP/2 is not supported, use HTTP/1.1")


class Http1Request:
    """One request: its head, and the parts of its body that have arrived and were not read."""

    __slots__ = (
        "body",
        "chunked",
        "complete",
        "content_length",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "received_bytes",
        "version",
    )

    def __init__(self) -> None:
        self.method = ""
        self.path = b""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.version = "1.1"
        self.keep_alive = True
        self.expects_continue = False
        self.content_length: int | None = None
        self.chunked = False
        # One buffer, because a list of small chunks takes many times their size.
        self.body = bytearray()
        self.received_bytes = 0
        self.complete = False

    @property
    def missing_bytes(self) -> int | None:
        """Number of body bytes that have not arrived; None if unknown (chunked)."""
        if self.complete:
            return 0
        if self.content_length is None:
            return None
        return self.content_length - self.received_bytes


class Http1Parser:
    """The parser of one connection, and the parsed requests that wait to be answered."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._current: Http1Request | None = None
        self._is_first_read = True
        self._in_head = False
        self._target = b""
        self._head_bytes = 0
        # Bytes received since the last part of a body: chunk sizes, their extensions, trailers.
        self._framing_bytes = 0
        # What was received since the head began: its size, and as much as has the request line.
        self._unfinished_bytes = 0
        self._head_start = b""
        self.requests: deque[Http1Request] = deque()
        self.error: HttpError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is waiting and no part of the next one has arrived."""
        return self._current is None and not self.requests

    @property
    def head_bytes(self) -> int:
        """Number of bytes of a head that is incomplete."""
        return self._unfinished_bytes

    def feed(self, received: bytes) -> None:
        """Parse received bytes; may add to `requests`, or set `error`."""
        if self.error is not None:
            return
        if self._is_first_read:
            self._is_first_read = False
            if received.startswith(_HTTP2_PREFACE):
                self.error = Http2Rejected()
                return
        if self._current is not None and not self._in_head:
            self._framing_bytes += len(received)
        else:
            if not self._in_head:
                self._unfinished_bytes, self._head_start = 0, b""
            self._unfinished_bytes += len(received)
            self._head_start += received[: _REQUEST_LINE_BYTES - len(self._head_start)]
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(received[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError as error:
            self._fail(str(error))
            if _REQUEST_LINE.search(self._head_start):
                self.error = HttpError(405, "Unrecognized method", "M_UNRECOGNIZED")
        except httptools.HttpParserError as error:
            self._fail(str(error))
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Limit what httptools has not reported yet; the body may have begun in the same read."""
        if self.error is not None:
            return
        if self._in_head and self._unfinished_bytes > self._limits.head_bytes:
            self.error = HttpError(431, "Request head too large")
        elif self._framing_bytes > self._limits.head_bytes:
            self.error = HttpError(431, "Chunk extensions or trailers too large")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the last request again without its Upgrade header; `rest` follows its head.

        Spec: RFC 9110, section 7.8. There are no websockets here. RFC 9113 has deprecated h2c,
        and proxies that forward it let requests bypass their rules.
        """
        request = self.requests.pop()
        if request.method == "CONNECT":
            self.error = HttpError(405, "Unrecognized method", "M_UNRECOGNIZED")
            return
        request_line = f"{request.method} {self._target.decode('ascii')} HTTP/{request.version}\r\n"
        headers = (header for header in request.headers if header[0] != b"upgrade")
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._parser = httptools.HttpRequestParser(self)
        self.feed(request_line.encode("ascii") + lines + b"\r\n" + rest)

    def _fail(self, reason: str) -> None:
        """Record an error of httptools, unless one of our callbacks raised its own first."""
        if self.error is None:
            self.error = HttpError(400, reason or "Malformed request")

    def _rejected(self, status: int, reason: str) -> HttpError:
        self.error = HttpError(status, reason)
        return self.error

    # The methods below are the callbacks of httptools; an exception in one stops the parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.requests) >= self._limits.pipelined_requests:
            raise self._rejected(400, "Too many pipelined requests")
        self._current = Http1Request()
        self._in_head = True
        self._target = b""
        self._head_bytes = self._framing_bytes = 0

    def on_url(self, part: bytes) -> None:
        """Append a part of the request target."""
        self._target = self._target + part if self._target else part
        if len(self._target) > self._limits.target_bytes:
            raise self._rejected(414, "Request target too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a header, or drop a trailer."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.head_bytes:
            raise self._rejected(431, "Request head too large")
        request = self._current
        if request is None or not self._in_head:
            return
        if len(request.headers) >= self._limits.headers:
            raise self._rejected(431, "Too many headers")
        if _CONTROL_CHARACTER.search(value):
            raise self._rejected(400, "Control character in a header")
        # Spaces around a value are not part of it (RFC 9112, section 5.1).
        request.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Check the head and queue the request; its body may still be incomplete."""
        request = self._current
        assert request is not None
        self._in_head = False
        request.version = self._parser.get_http_version()
        if request.version not in ("1.1", "1.0"):
            raise self._rejected(505, "Unsupported HTTP version")
        request.method = self._parser.get_method().decode("ascii")
        self._parse_target(request)
        self._parse_framing(request)
        self.requests.append(request)
        self._unfinished_bytes, self._head_start = 0, b""

    def on_body(self, part: bytes) -> None:
        """Append a part of the body."""
        request = self._current
        assert request is not None
        request.received_bytes += len(part)
        request.body += part
        self._framing_bytes = 0

    def on_message_complete(self) -> None:
        """Mark the request as complete."""
        assert self._current is not None
        self._current.complete = True
        self._current = None

    def _parse_target(self, request: Http1Request) -> None:
        target = self._target
        if not target.startswith(b"/"):
            absolute = _ABSOLUTE_TARGET.fullmatch(target)
            if absolute is not None:
                target = absolute[1] if absolute[1].startswith(b"/") else b"/" + absolute[1]
            elif target == b"*" and request.method == "OPTIONS":
                target = b"/"
        if not target.startswith(b"/") or not _TARGET.fullmatch(target):
            raise self._rejected(400, "Malformed request target")
        request.path, _, request.query = target.partition(b"?")

    def _parse_framing(self, request: Http1Request) -> None:
        hosts = lengths = 0
        for name, value in request.headers:
            if name in _FRAMING_HEADERS:
                if name == b"host":
                    hosts += 1
                    if not _HOST.fullmatch(value):
                        raise self._rejected(400, "Malformed Host header")
                elif name == b"content-length":
                    lengths += 1
                    if not _CONTENT_LENGTH.fullmatch(value):
                        raise self._rejected(400, "Malformed Content-Length header")
                    request.content_length = int(value)
                else:
                    self._parse_option(request, name, value.strip().lower())
        if hosts != 1 and (hosts or request.version == "1.1"):
            raise self._rejected(400, "Exactly one Host header is required")
        if lengths > 1 or (request.chunked and (lengths or request.version == "1.0")):
            raise self._rejected(400, "Ambiguous body length")
        if request.version == "1.0":
            request.keep_alive = request.expects_continue = False

    def _parse_option(self, request: Http1Request, name: bytes, value: bytes) -> None:
        if name == b"transfer-encoding":
            if value != b"chunked" or request.chunked:
                raise self._rejected(501, "Unsupported transfer coding")
            request.chunked = True
        elif name == b"connection":
            if b"close" in (option.strip() for option in value.split(b",")):
                request.keep_alive = False
        else:
            if value != b"100-continue":
                raise self._rejected(417, "Unsupported expectation")
            request.expects_continue = True
