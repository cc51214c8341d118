"""HTTP/1.1 requests out of bytes: httptools parses, this file refuses what it lets through.

Whatever two HTTP implementations could read differently is refused, never repaired: that is
what request smuggling lives on. After a refusal nothing more is read from the connection.

Spec: RFC 9112, sections 2.2, 3.2, 5, 6.1-6.3, 7.1, 11.2.
"""

import re
from collections import deque

import httptools

from hs.apis.web.http1_limits import HttpBounds

_ABSOLUTE = re.compile(rb"(?i:https?)://[^/?#@]+(.*)", re.DOTALL)
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%-]+(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_TARGET = re.compile(rb"[!\"$-~]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"
_UNKNOWN_METHOD = re.compile(
    rb"(?:\A|\n)(?P<method>[A-Za-z0-9!#$%&'*+.^_`|~-]+) [!-~]+ HTTP/1\.[01]\r\n"
)


class Refusal(Exception):
    """The peer broke the protocol or a bound; the connection ends with this status."""

    def __init__(self, status: int, reason: str, errcode: str = "M_UNKNOWN") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.errcode = errcode


class Incoming:
    """One request: its head, and what has arrived of its body."""

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
        self.body: list[bytes] = []
        self.received_bytes = 0
        self.complete = False

    @property
    def missing_bytes(self) -> int | None:
        """Tell how much of the body is still to come; None when nobody knows."""
        if self.complete:
            return 0
        if self.content_length is None:
            return None
        return self.content_length - self.received_bytes


class Inbox:
    """The requests that arrived on one connection and wait for their turn."""

    def __init__(self, bounds: HttpBounds) -> None:
        self._bounds = bounds
        self._parser = httptools.HttpRequestParser(self)
        self._current: Incoming | None = None
        self._is_fresh = True
        self._in_head = False
        self._target = b""
        self._head_bytes = 0
        # What came since the last part of a body: chunk sizes, their extensions, trailers.
        self._framing_bytes = 0
        self._raw: list[bytes] = []
        self.requests: deque[Incoming] = deque()
        self.refusal: Refusal | None = None
        # The first bytes of a client that knows that HTTP/2 is spoken here.
        self.http2: bytes | None = None

    @property
    def is_idle(self) -> bool:
        """Tell whether no request has begun to arrive."""
        return self._current is None and not self.requests

    def feed(self, received: bytes) -> None:
        """Take bytes; then `requests`, `refusal` or `http2` may have something new."""
        if self.refusal is not None or self.http2 is not None:
            return
        if self._is_fresh:
            self._is_fresh = False
            if received.startswith(_HTTP2_PREFACE):
                self.http2 = received
                return
        if self._current is None:
            self._raw = [received]
        elif self._in_head:
            self._raw.append(received)
            if sum(map(len, self._raw)) > self._bounds.head_bytes:
                self.refusal = Refusal(431, "The head of the request is too large")
                return
        else:
            self._framing_bytes += len(received)
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http1(received[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError as error:
            self._break_off(str(error))
            if _UNKNOWN_METHOD.search(b"".join(self._raw)):
                self.refusal = Refusal(405, "Unrecognized method", "M_UNRECOGNIZED")
        except httptools.HttpParserError as error:
            self._break_off(str(error))
        if self._framing_bytes > self._bounds.head_bytes and self.refusal is None:
            self.refusal = Refusal(431, "What stands between the parts of the body is too large")

    def _stay_with_http1(self, rest: bytes) -> None:
        """Ignore the wish for another protocol; `rest` comes after the head of the request.

        Spec: RFC 9110, section 7.8: nothing here speaks websocket; and h2c was given up by
        RFC 9113 and leads past the rules of proxies that let it through. The parser has taken what
        follows for the other protocol, so it begins anew with the same request, without the wish.
        """
        current = self.requests.pop()
        if current.method == "CONNECT":
            self.refusal = Refusal(405, "Unrecognized method", "M_UNRECOGNIZED")
            return
        first = f"{current.method} {self._target.decode('ascii')} HTTP/{current.version}\r\n"
        kept = (header for header in current.headers if header[0] != b"upgrade")
        lines = b"".join(b"%b: %b\r\n" % header for header in kept)
        self._parser = httptools.HttpRequestParser(self)
        self.feed(first.encode("ascii") + lines + b"\r\n" + rest)

    def _break_off(self, reason: str) -> None:
        """Refuse what the parser refused, unless a callback has said why already."""
        if self.refusal is None:
            self.refusal = Refusal(400, reason or "Malformed request")

    def _refuse(self, status: int, reason: str) -> Refusal:
        self.refusal = Refusal(status, reason)
        return self.refusal

    # What follows is called by the parser; an exception makes it stop.

    def on_message_begin(self) -> None:
        """Start a request."""
        if len(self.requests) >= self._bounds.pipelined:
            raise self._refuse(400, "Too many requests in a row")
        self._current = Incoming()
        self._in_head = True
        self._target = b""
        self._head_bytes = self._framing_bytes = 0

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target = self._target + part if self._target else part
        if len(self._target) > self._bounds.target_bytes:
            raise self._refuse(414, "The target of the request is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which is dropped."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._bounds.head_bytes:
            raise self._refuse(431, "The head of the request is too large")
        current = self._current
        if current is None or not self._in_head:
            return
        if len(current.headers) >= self._bounds.headers:
            raise self._refuse(431, "Too many headers")
        if _BAD_VALUE.search(value):
            raise self._refuse(400, "A header holds control characters")
        current.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Judge the head, and let the request be answered."""
        current = self._current
        assert current is not None
        self._in_head = False
        current.version = self._parser.get_http_version()
        if current.version not in ("1.1", "1.0"):
            raise self._refuse(505, "This version of HTTP is not spoken here")
        current.method = self._parser.get_method().decode("ascii")
        self._take_target(current)
        self._take_framing(current)
        self.requests.append(current)
        self._raw = []

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        current = self._current
        assert current is not None
        current.received_bytes += len(part)
        current.body.append(part)
        self._framing_bytes = 0

    def on_message_complete(self) -> None:
        """End the request."""
        assert self._current is not None
        self._current.complete = True
        self._current = None

    def _take_target(self, current: Incoming) -> None:
        target = self._target
        if not target.startswith(b"/"):
            absolute = _ABSOLUTE.match(target)
            if absolute is not None:
                target = absolute[1] if absolute[1].startswith(b"/") else b"/" + absolute[1]
            elif target == b"*" and current.method == "OPTIONS":
                target = b"/"
        if not target.startswith(b"/") or not _TARGET.fullmatch(target):
            raise self._refuse(400, "The target of the request is malformed")
        current.path, _, current.query = target.partition(b"?")

    def _take_framing(self, current: Incoming) -> None:
        hosts = lengths = 0
        for name, value in current.headers:
            if name in _FRAMING:
                if name == b"host":
                    hosts += 1
                    if not _HOST.fullmatch(value):
                        raise self._refuse(400, "The Host header is malformed")
                elif name == b"content-length":
                    lengths += 1
                    if not _LENGTH.fullmatch(value):
                        raise self._refuse(400, "The Content-Length is malformed")
                    current.content_length = int(value)
                else:
                    self._take_option(current, name, value.strip().lower())
        if hosts != 1 and (hosts or current.version == "1.1"):
            raise self._refuse(400, "One Host header is needed")
        if lengths > 1 or (current.chunked and (lengths or current.version == "1.0")):
            raise self._refuse(400, "The length of the body is ambiguous")
        if current.version == "1.0":
            current.keep_alive = current.expects_continue = False

    def _take_option(self, current: Incoming, name: bytes, value: bytes) -> None:
        if name == b"transfer-encoding":
            if value != b"chunked" or current.chunked:
                raise self._refuse(501, "This transfer coding is not understood")
            current.chunked = True
        elif name == b"connection":
            if b"close" in (option.strip() for option in value.split(b",")):
                current.keep_alive = False
        else:
            if value != b"100-continue":
                raise self._refuse(417, "This expectation is not met")
            current.expects_continue = True
