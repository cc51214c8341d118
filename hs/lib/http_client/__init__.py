"""Outgoing HTTP as the rest of the server sees it: one request, one answer, clear faults."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import attrs

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
ANSWER_S = 30.0
ANSWER_BYTES = 1 << 20


@attrs.frozen
class HttpAnswer:
    """What a server answered; names of headers are in lower case, `url` is the last one asked."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class HttpFault(Exception):
    """The request brought no answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unreachable(HttpFault):
    """No connection, or one that broke before the answer was whole."""


class TimedOut(HttpFault):
    """The answer was not whole in time."""


class Blocked(HttpFault):
    """The address or its scheme is not allowed."""


class AnswerTooLarge(HttpFault):
    """The answer is larger than asked for, perhaps only after unpacking."""


class HttpClient(Protocol):
    """Asks other servers."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = ANSWER_S,
        max_bytes: int = ANSWER_BYTES,
        redirects: int = 0,
    ) -> HttpAnswer:
        """Ask, following up to so many redirects; any status is an answer.

        `timeout_s` bounds everything from the first look-up to the last byte. Without
        `redirects` the redirect itself is the answer.
        Raises: HttpFault.
        """
