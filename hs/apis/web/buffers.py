"""The bytes that clients make a process keep: unfinished heads and bodies, unread responses.

Rules:

- Each connection has a hold, which counts what is kept for it. Little is not counted.
- All holds together have a limit, and so have the holds of one source (an address, or an IPv6
  network), which is a fraction of it: one client cannot take everything.
- If a limit would be exceeded, the connections that have made the server wait longest are ended,
  of the same source or of all. A client that sends and reads at a normal speed makes it wait for a
  moment only.
- A request that is complete is never ended for this. If all that is kept belongs to such requests,
  the next body is rejected with M_LIMIT_EXCEEDED. A response is never rejected, as it exists
  already.
- An ended hold counts nothing from then on, although its connection ends a moment later.
"""

import logging
import time
from collections.abc import Callable

import attrs

from hs.core.errors import LimitExceeded

logger = logging.getLogger(__name__)

UNCOUNTED_BYTES = 4096
SHARE_OF_SOURCE = 4
_RETRY_AFTER_MS = 2000
_WARNING_PAUSE_S = 60.0


@attrs.define(eq=False)
class _Account:
    """What is kept for all clients or for one source; `waiting` are its holds, oldest first."""

    limit_bytes: int
    used_bytes: int = 0
    waiting: "dict[BufferHold, None]" = attrs.Factory(dict)

    def make_room(self, size: int, hold: "BufferHold") -> bool:
        """End the oldest waiting holds until `size` fits; return whether it does."""
        while self.used_bytes + size > self.limit_bytes:
            oldest = next((other for other in self.waiting if other is not hold), None)
            if oldest is None:
                return False
            oldest.end()
        return True


class BufferBudget:
    """The bytes that all clients of a process may make it keep."""

    def __init__(self, limit_bytes: int) -> None:
        self.total = _Account(limit_bytes)
        self.ended = 0
        self._sources: dict[str, _Account] = {}
        self._warned_at = -_WARNING_PAUSE_S

    def hold(self, source: str | None, end_connection: Callable[[], None]) -> "BufferHold":
        """Return a hold for a connection; without a source, only the limit of all counts."""
        return BufferHold(self, source, end_connection)

    def accounts(self, source: str | None) -> list[_Account]:
        """Return the accounts in which the bytes of a source count."""
        if source is None:
            return [self.total]
        account = self._sources.get(source)
        if account is None:
            account = _Account(self.total.limit_bytes // SHARE_OF_SOURCE)
            self._sources[source] = account
        return [account, self.total]

    def forget(self, source: str | None) -> None:
        """Forget a source for which nothing is kept."""
        if source is not None and not self._sources[source].used_bytes:
            del self._sources[source]

    def note_ended(self, source: str | None) -> None:
        """Count a connection that was ended, and warn of it now and then."""
        self.ended += 1
        now = time.monotonic()
        if now - self._warned_at >= _WARNING_PAUSE_S:
            self._warned_at = now
            logger.warning(
                "clients keep too many bytes waiting, ending slow connections, now of %s",
                source or "a trusted address",
            )


class BufferHold:
    """The bytes that are kept for one connection."""

    __slots__ = ("_budget", "_end_connection", "_is_waiting", "_received", "_sending", "source")

    def __init__(
        self, budget: BufferBudget, source: str | None, end_connection: Callable[[], None]
    ) -> None:
        self._budget = budget
        self._end_connection = end_connection
        self._received = 0
        self._sending = 0
        self._is_waiting = False
        self.source = source

    @property
    def size(self) -> int:
        """Number of bytes that count."""
        return self._received + self._sending

    def charge(self, source: str | None) -> None:
        """Count for the source of the next request, which came through a proxy."""
        if source != self.source:
            self.release()
            self.source = source

    def receive(self, size: int) -> None:
        """Count what has arrived of a head or body; its connection may be ended until settle().

        Raises: LimitExceeded if there is no room.
        """
        if size <= UNCOUNTED_BYTES:
            return
        growth = size - self._received
        accounts = self._budget.accounts(self.source)
        if not all(account.make_room(growth, self) for account in accounts):
            self._budget.forget(self.source)
            raise LimitExceeded("The server is overloaded", retry_after_ms=_RETRY_AFTER_MS)
        self._received = size
        self._add(accounts, growth)

    def send(self, size: int) -> None:
        """Count a part of a response that the client does not read at once, until sent()."""
        accounts = self._budget.accounts(self.source)
        for account in accounts:
            account.make_room(size, self)
        self._sending += size
        self._add(accounts, size)

    def sent(self) -> None:
        """Count the response no longer."""
        if self._sending:
            sending, self._sending = self._sending, 0
            self._remove(sending)

    def settle(self) -> None:
        """Protect the connection, which has no reason to be ended: the request is complete."""
        if self._is_waiting:
            self._is_waiting = False
            for account in self._budget.accounts(self.source):
                account.waiting.pop(self, None)

    def release(self) -> None:
        """Count nothing any longer."""
        size = self._received + self._sending
        if size:
            self._received = self._sending = 0
            self._remove(size)

    def end(self) -> None:
        """End the connection because others need the room."""
        self.release()
        self._budget.note_ended(self.source)
        self._end_connection()

    def _add(self, accounts: list[_Account], size: int) -> None:
        self._is_waiting = True
        for account in accounts:
            account.used_bytes += size
            account.waiting.setdefault(self)

    def _remove(self, size: int) -> None:
        self.settle()
        for account in self._budget.accounts(self.source):
            account.used_bytes -= size
        self._budget.forget(self.source)
