"""The open connections of an HTTP/1.1 client.

Rules:

- A connection is used for one request at a time, and again only if the response was received to its
  end and nothing after it. It is closed after any fault and any cancellation.
- Connections are kept per target, which includes the name in the certificate, so a connection that
  was made for one server is never used for another one.
- Of all requests, `limit` are sent at the same time, of those to one target `limit_per_target`;
  others wait. Up to `limit` connections are kept while they are idle, each for IDLE_S.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from hs.lib.http_client.connecting import ConnectionTarget
from hs.lib.http_client.wires import Wire

IDLE_S: Final = 120.0  # a TLS handshake costs as much CPU as several requests
SWEEP_S: Final = 10.0


@attrs.define(eq=False)
class Connection:
    """An open connection; `is_fresh` until the first response."""

    target: ConnectionTarget
    wire: Wire
    is_fresh: bool = True
    idle_since_s: float = 0.0


@attrs.define(eq=False)
class TargetConnections:
    """The idle connections of one target, and the requests that may be sent beside others."""

    free: trio.Semaphore
    idle: list[Connection] = attrs.Factory(list)
    users: int = 0  # requests that are sent or wait


@attrs.define(eq=False)
class ConnectionPool:
    """The connections by target."""

    _open: Callable[[ConnectionTarget], Awaitable[Wire]]
    _limit: int
    _limit_per_target: int
    _free: trio.Semaphore = attrs.field(init=False)
    _by_target: dict[ConnectionTarget, TargetConnections] = attrs.Factory(dict)
    _idle: dict[Connection, TargetConnections] = attrs.Factory(dict)  # the oldest come first
    _has_idle: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self._free = trio.Semaphore(self._limit)

    async def run(self) -> None:
        """Close connections that are idle for long, until cancelled; then close all idle ones."""
        try:
            while True:
                await self._has_idle.wait()
                await trio.sleep(SWEEP_S)
                self._close_idle_since(trio.current_time() - IDLE_S)
                if not self._idle:
                    self._has_idle = trio.Event()
        finally:
            self.close()

    def close(self) -> None:
        """Close all idle connections; later requests open new ones."""
        self._close_idle_since(float("inf"))

    async def enter(self, target: ConnectionTarget) -> TargetConnections:
        """Wait until a request may be sent to a target; `leave` must follow."""
        place = self._by_target.get(target)
        if place is None:
            place = self._by_target[target] = TargetConnections(
                trio.Semaphore(self._limit_per_target)
            )
        place.users += 1
        try:
            await _acquire(place.free)
            try:
                await _acquire(self._free)
            except BaseException:
                place.free.release()
                raise
        except BaseException:
            self._forget_user(target, place)
            raise
        return place

    def leave(self, target: ConnectionTarget, place: TargetConnections) -> None:
        """Let the next request be sent."""
        self._free.release()
        place.free.release()
        self._forget_user(target, place)

    async def connection(self, target: ConnectionTarget, place: TargetConnections) -> Connection:
        """Return an idle connection that is usable, or else a new one. Raises: HttpFault."""
        while place.idle:
            connection = place.idle.pop()
            del self._idle[connection]
            if connection.wire.is_quiet():
                return connection
            connection.wire.close()
        return await self.new_connection(target)

    async def new_connection(self, target: ConnectionTarget) -> Connection:
        """Open a connection. Raises: HttpFault."""
        return Connection(target, await self._open(target))

    def keep(self, connection: Connection, place: TargetConnections) -> None:
        """Keep a connection for the next request."""
        connection.is_fresh = False
        connection.idle_since_s = trio.current_time()
        place.idle.append(connection)
        self._idle[connection] = place
        if len(self._idle) > self._limit:
            self._close_oldest()
        if not self._has_idle.is_set():
            self._has_idle.set()

    def _close_idle_since(self, latest_s: float) -> None:
        while self._idle and next(iter(self._idle)).idle_since_s <= latest_s:
            self._close_oldest()

    def _close_oldest(self) -> None:
        connection = next(iter(self._idle))
        place = self._idle.pop(connection)
        place.idle.remove(connection)
        connection.wire.close()
        self._forget_unused(connection.target, place)

    def _forget_user(self, target: ConnectionTarget, place: TargetConnections) -> None:
        place.users -= 1
        self._forget_unused(target, place)

    def _forget_unused(self, target: ConnectionTarget, place: TargetConnections) -> None:
        if not place.users and not place.idle:
            del self._by_target[target]


async def _acquire(semaphore: trio.Semaphore) -> None:
    try:
        semaphore.acquire_nowait()
    except trio.WouldBlock:
        await semaphore.acquire()
