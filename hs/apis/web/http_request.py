"""One HTTP request as received: nothing in it has been validated."""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from hs.apis.web.buffers import BufferHold
from hs.core.errors import InvalidParam, TooLarge
from hs.core.requester import Requester

AsgiReceive = Callable[[], Awaitable[Any]]
MAX_QUERY_PARAMETERS = 500
_MAX_CACHED_CHARS = 400


class DisconnectSignal(Protocol):
    """A connection that notices a client's disconnect without an extra task."""

    def watch_disconnect(self) -> None:
        """Cancel the connection's task as soon as the client disconnects, from now on."""
        ...

    def unwatch_disconnect(self) -> None:
        """Stop cancelling the connection's task on disconnect."""
        ...


class ClientDisconnected(Exception):
    """The client disconnected before it received the response, so no response is sent."""


class HttpRequest:
    """The request line, headers and body of one request.

    Routing adds `path_params`, authentication adds `requester` or `origin`, and reading the
    body adds `body` and `json`. `raw_path` is not percent-decoded. `source` is set if the
    request counts for a client behind a proxy (connection_counts.py), `buffers` if the connection
    counts the bytes that it makes the process keep. `has_arrived` is set if the request was
    complete when it began.
    """

    __slots__ = (
        "_query",
        "_receive",
        "_received_all",
        "body",
        "buffers",
        "client_ip",
        "disconnect_signal",
        "has_arrived",
        "headers",
        "json",
        "method",
        "origin",
        "path_params",
        "query_string",
        "raw_path",
        "requester",
        "source",
    )

    def __init__(
        self,
        method: str,
        raw_path: str,
        query_string: bytes,
        headers: list[tuple[bytes, bytes]],
        receive: AsgiReceive,
        client_ip: str,
    ) -> None:
        self.method = method
        self.raw_path = raw_path
        self.query_string = query_string
        self.headers = headers
        self.client_ip = client_ip
        self.path_params: dict[str, str] = {}
        self.requester: Requester | None = None
        self.origin: str | None = None
        self.body = b""
        self.json: Any = None
        self.disconnect_signal: DisconnectSignal | None = None
        self.source: str | None = None
        self.buffers: BufferHold | None = None
        self.has_arrived = False
        self._query: dict[str, list[str]] | None = None
        self._receive = receive
        self._received_all = False

    def header(self, name: bytes) -> str | None:
        """Return the first header with this (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def header_values(self, name: bytes) -> list[str]:
        """Return all headers with this (lower-case) name, in order."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]

    @property
    def query(self) -> dict[str, list[str]]:
        """All query parameters, percent-decoded on first use. Raises: InvalidParam."""
        if self._query is None:
            self._query = parse_query(self.query_string)
        return self._query

    def query_value(self, name: str) -> str | None:
        """Return the first query parameter with this name. Raises: InvalidParam."""
        if not self.query_string:
            return None
        query = self.query if self._query is None else self._query
        values = query.get(name)
        return values[0] if values else None

    @property
    def may_contain_nul(self) -> bool:
        """Whether a string in the JSON body may contain NUL; false positives are possible."""
        # The first search is much faster and usually decides.
        return b"\\" in self.body and b"\\u0000" in self.body

    async def read_body(self, max_bytes: int) -> bytes:
        """Read the whole body into `body`.

        Raises: TooLarge beyond `max_bytes`; ClientDisconnected if the body is incomplete;
        LimitExceeded if clients make the process keep too much.
        """
        declared = self.header(b"content-length")
        if declared is not None and int(declared) > max_bytes:
            raise TooLarge(f"The request body must not be larger than {max_bytes} bytes")
        received = bytearray()  # A list of small parts would take many times their size.
        while not self._received_all:
            part = await self._receive_part()
            received += part
            del part  # It would be kept until the client sends more.
            if len(received) > max_bytes:
                raise TooLarge(f"The request body must not be larger than {max_bytes} bytes")
            if self.buffers is not None:
                self.buffers.receive(len(received))
        if self.buffers is not None:
            self.buffers.settle()
        self.body = bytes(received)
        return self.body

    def __aiter__(self) -> "HttpRequest":
        """Iterate over the parts of the body as they arrive; possible only once."""
        # Not an async generator: a reader that stops half-way would have to close it.
        return self

    async def __anext__(self) -> bytes:
        """Return the next part of the body. Raises: ClientDisconnected."""
        while not self._received_all:
            part = await self._receive_part()
            if part:
                return part
        raise StopAsyncIteration

    async def _receive_part(self) -> bytes:
        """Return the next part of the body, which may be empty. Raises: ClientDisconnected."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        self._received_all = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def wait_disconnected(self) -> None:
        """Wait until the client disconnects; discards the rest of the body."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return


def parse_query(query_string: bytes) -> dict[str, list[str]]:
    """Decode a query string into values by parameter name.

    Raises: InvalidParam if it is not ASCII, does not decode to UTF-8, contains NUL or has more
    than MAX_QUERY_PARAMETERS parameters.
    """
    values_by_name: dict[str, list[str]] = {}
    if not query_string.isascii():  # Our parser rejects this; other ASGI servers do not.
        raise InvalidParam("The query string must be percent-encoded ASCII")
    pairs = query_string.decode("ascii").split("&")
    if len(pairs) > MAX_QUERY_PARAMETERS:
        raise InvalidParam(f"More than {MAX_QUERY_PARAMETERS} query parameters")
    for pair in pairs:
        if pair:
            decode = _decode_cached if len(pair) < _MAX_CACHED_CHARS else _decode_parameter
            name, value = decode(pair)
            values_by_name.setdefault(name, []).append(value)
    return values_by_name


def _decode_parameter(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return percent_decode(name, plus=True), percent_decode(value, plus=True)


# Clients send the same filters and timeouts over and over.
_decode_cached = lru_cache(maxsize=2048)(_decode_parameter)


def percent_decode(text: str, plus: bool = False) -> str:
    """Percent-decode one path segment, or with `plus` (which means space) one part of a query.

    Raises: InvalidParam if the result is not UTF-8 or contains NUL.
    """
    if plus and "+" in text:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidParam("The percent-encoded URL is not valid UTF-8") from None
    if "\0" in decoded:
        raise InvalidParam("The URL must not contain NUL characters")
    return decoded


def access_token_of(http_request: HttpRequest) -> str | None:
    """Return the access token from the header or, failing that, the deprecated query parameter.

    Spec: client-server API, Using access tokens.
    """
    authorization = http_request.header(b"authorization")
    if authorization is not None and authorization[:7].lower() == "bearer ":
        return authorization[7:].strip() or None
    if b"access_token=" in http_request.query_string:
        return http_request.query_value("access_token") or None
    return None
