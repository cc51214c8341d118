"""One request as it came off the wire, before any of it is trusted."""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from hs.core.errors import InvalidParam, TooLarge
from hs.core.requester import Requester

Receive = Callable[[], Awaitable[Any]]
MAX_QUERY_PARAMETERS = 500
_USUAL_CHARS = 400


class DisconnectSignal(Protocol):
    """A connection that can end when its client hangs up, without a task of its own."""

    def watch(self) -> None:
        """From now on, cancel the connection's task as soon as the client is gone."""
        ...

    def unwatch(self) -> None:
        """Stop that."""
        ...


class ClientGone(Exception):
    """The client hung up before its request could be answered; nobody is left to tell."""


class Call:
    """The request line, headers and body of one request, with what became known on the way."""

    __slots__ = (
        "_query",
        "_receive",
        "_received_all",
        "body",
        "client_ip",
        "disconnect",
        "headers",
        "json",
        "method",
        "origin",
        "params",
        "query_string",
        "requester",
        "target",
    )

    def __init__(
        self,
        method: str,
        target: str,
        query_string: bytes,
        headers: list[tuple[bytes, bytes]],
        receive: Receive,
        client_ip: str,
    ) -> None:
        self.method = method
        self.target = target
        self.query_string = query_string
        self.headers = headers
        self.client_ip = client_ip
        self.params: dict[str, str] = {}
        self.requester: Requester | None = None
        self.origin: str | None = None
        self.body = b""
        self.json: Any = None
        self.disconnect: DisconnectSignal | None = None
        self._query: dict[str, list[str]] | None = None
        self._receive = receive
        self._received_all = False

    def header(self, name: bytes) -> str | None:
        """Give the first header of that (lower case) name."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def header_values(self, name: bytes) -> list[str]:
        """Give all headers of that (lower case) name, in order."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]

    @property
    def query(self) -> dict[str, list[str]]:
        """Give the query parameters, decoded once."""
        if self._query is None:
            self._query = parse_query(self.query_string)
        return self._query

    def query_value(self, name: str) -> str | None:
        """Give the first query parameter of that name."""
        if not self.query_string:
            return None
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def may_hold_nul(self) -> bool:
        """Whether a string in the JSON of the body may hold NUL."""
        # The backslash alone is found much quicker, or not found.
        return b"\\" in self.body and b"\\u0000" in self.body

    async def read_body(self, max_bytes: int) -> bytes:
        """Read the whole body.

        Raises: TooLarge beyond `max_bytes`, ClientGone when it never ends.
        """
        declared = self.header(b"content-length")
        if declared is not None and int(declared) > max_bytes:
            raise TooLarge(f"The body is larger than {max_bytes} bytes")
        parts: list[bytes] = []
        size = 0
        async for part in self:
            size += len(part)
            if size > max_bytes:
                raise TooLarge(f"The body is larger than {max_bytes} bytes")
            parts.append(part)
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self.body

    def __aiter__(self) -> "Call":
        """Give the body part by part as it arrives; once only."""
        # Not a generator: those must be closed by whoever stops half way.
        return self

    async def __anext__(self) -> bytes:
        """Give the next part of the body. Raises: ClientGone when it never ends."""
        while not self._received_all:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._received_all = not message.get("more_body", False)
            part: bytes = message.get("body", b"")
            if part:
                return part
        raise StopAsyncIteration

    async def wait_disconnected(self) -> None:
        """Wait until the client has hung up."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return


def parse_query(query_string: bytes) -> dict[str, list[str]]:
    """Decode a query string.

    Raises: InvalidParam for what is not UTF-8, holds NUL or has too many parameters.
    """
    found: dict[str, list[str]] = {}
    if not query_string.isascii():  # HTTP/2 lets it through
        raise InvalidParam("The address holds bytes that are not percent-encoded")
    pairs = query_string.decode("ascii").split("&")
    if len(pairs) > MAX_QUERY_PARAMETERS:
        raise InvalidParam("Too many query parameters")
    for pair in pairs:
        if pair:
            decode = _usual_parameter if len(pair) < _USUAL_CHARS else _parameter
            name, value = decode(pair)
            found.setdefault(name, []).append(value)
    return found


def _parameter(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return decode_text(name, plus=True), decode_text(value, plus=True)


# Clients send the same filters and timeouts over and over.
_usual_parameter = lru_cache(maxsize=2048)(_parameter)


def decode_text(text: str, plus: bool = False) -> str:
    """Undo the percent-encoding of one path segment or query part.

    Raises: InvalidParam for what is not UTF-8 or holds NUL.
    """
    if plus and "+" in text:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidParam("The address is not valid UTF-8") from None
    if "\0" in decoded:
        raise InvalidParam("The address holds a NUL character")
    return decoded


def token_of(call: Call) -> str | None:
    """Find the access token: the header first, then the (deprecated) query parameter.

    Spec: client-server API, Using access tokens.
    """
    authorization = call.header(b"authorization")
    if authorization is not None and authorization[:7].lower() == "bearer ":
        return authorization[7:].strip() or None
    if b"access_token=" in call.query_string:
        return call.query_value("access_token") or None
    return None
