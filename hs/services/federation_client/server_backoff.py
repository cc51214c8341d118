"""The servers that do not respond, known to all processes: requests to them fail at once.

Rules:

- The first failure of a server stops requests for a second; each further one, after that time, for
  a longer interval (`RetryIntervals`). Failures of requests that began before count only once.
- A response ends the backoff. So does a request of the server, but not within GRACE_MS of the last
  failure: a server may be able to reach this one and not the other way round.
- A server that responds 429 with a time gets no requests for that time. Its own requests do not end
  this, a later response does.
- The rows are in the database, and every process follows them. Clients can name any number of
  servers that do not exist. So only a few failures are noted per second, and of more than
  MAX_FAILING servers, those are forgotten that have failed for the shortest time.
"""

import math
from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.core.streams import DESTINATIONS, DestinationRow
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.lib.limiter import RateLimiter, TokenBucketRate
from hs.repl.feed import Feed
from hs.repl.followers import TableFollower
from hs.repl.shared_writer import SharedStreamIds, SharedTableWriter
from hs.repl.writers import Rows
from hs.services.federation_client.retry_intervals import RetryIntervals
from hs.settings.sections.federation import PeerRequestSettings
from hs.storage.database import Database, Tx
from hs.storage.federation_client import destinations as storage
from hs.storage.federation_client.destinations import FailingServer

GRACE_MS: Final = 60_000
MAX_FAILING: Final = 50_000
FORGOTTEN_AT_ONCE: Final = 100
NEW_FAILURES: Final = TokenBucketRate(per_second=20, burst=1000)

Written = tuple[None, Rows[DestinationRow]]


@attrs.define(eq=False)
class ServerBackoff:
    """The servers that fail; one object in each process."""

    _database: Database
    _feed: Feed
    _writer: SharedTableWriter[DestinationRow]
    _clock: Clock
    _settings: PeerRequestSettings
    _intervals: RetryIntervals = attrs.field(init=False)
    _failing: dict[str, FailingServer] = attrs.field(factory=dict, init=False)
    _follower: TableFollower[Sequence[FailingServer], DestinationRow] = attrs.field(init=False)
    _flights: SingleFlight[tuple[str, str]] = attrs.field(factory=SingleFlight, init=False)
    _new: RateLimiter[None] = attrs.field(factory=lambda: RateLimiter(NEW_FAILURES), init=False)

    def __attrs_post_init__(self) -> None:
        self._intervals = RetryIntervals.of(self._settings)
        self._follower = TableFollower(
            self._feed, DESTINATIONS, self._read, self._replace, self._apply
        )

    async def load(self) -> None:
        """Read which servers fail, unless it is known."""
        await self._follower.load()

    def failing(self, server: ServerName) -> FailingServer | None:
        """Return since when a server fails, and when it may be tried again; call `load` before."""
        return self._failing.get(server)

    def count(self) -> int:
        """Return the number of servers that fail, for metrics."""
        return len(self._failing)

    async def check(self, server: ServerName) -> None:
        """Raise RemoteFault, if no request is to be sent to a server now."""
        await self.load()
        failing = self._failing.get(server)
        if failing is not None and failing.retry_ms > self._clock.now_ms():
            wait_s = (failing.retry_ms - self._clock.now_ms()) / 1000
            reason = "it limits requests" if failing.is_limited else "it did not respond"
            raise RemoteFault(server, f"{reason}; the next attempt is in {wait_s:.0f} s")

    async def failed(self, server: ServerName) -> None:
        """Note that a server did not respond."""
        await self.load()
        failing = self._failing.get(server)
        is_known = failing is not None and failing.retry_ms > self._clock.now_ms()
        if is_known or not self._settings.destination_min_retry_interval:
            return
        if failing is not None or not self._new.take(None, self._clock.now_ms() / 1000):
            await self._flights.run(("failed", server), self._write_failure, server)

    async def responded(self, server: ServerName) -> None:
        """Note that a server responded."""
        await self.load()
        if server in self._failing:
            await self._flights.run(("responded", server), self._write_response, server)

    async def limited(self, server: ServerName, wait_s: float) -> None:
        """Note that a server wants no requests for some time."""
        await self.load()
        failing = self._failing.get(server)
        is_known = failing is not None and failing.retry_ms > self._clock.now_ms()
        if not is_known:
            await self._flights.run(("limited", server), self._write_limit, server, wait_s)

    async def heard(self, server: ServerName) -> None:
        """Note that a request of a server arrived, whose signature is valid."""
        await self.load()
        failing = self._failing.get(server)
        if failing is None or failing.is_limited:
            return
        failed_ms = failing.retry_ms - failing.interval_ms
        if self._clock.now_ms() >= failed_ms + GRACE_MS:
            await self.responded(server)

    async def _write_failure(self, server: ServerName) -> None:
        await self._writer.write(self._fail, server, self._clock.now_ms())

    async def _write_limit(self, server: ServerName, wait_s: float) -> None:
        await self._writer.write(_limit, server, self._clock.now_ms(), math.ceil(wait_s * 1000))

    async def _write_response(self, server: ServerName) -> None:
        await self._writer.write(_recover, server)

    async def _fail(self, tx: Tx, ids: SharedStreamIds, server: str, now_ms: int) -> Written:
        before = await storage.get(tx, server)
        if before is not None and before.retry_ms > now_ms:
            return None, []
        since_ms, failures = now_ms, 1
        if before is not None and not before.is_limited:
            since_ms, failures = before.failing_since_ms, before.failures + 1
        interval_ms = round(self._intervals.after_s(failures) * 1000)
        failing = FailingServer(
            server, since_ms, now_ms + interval_ms, interval_ms, failures=failures
        )
        stream_id = await ids.next_id()
        rows = [(stream_id, DestinationRow(*failing))]
        if before is None and len(self._failing) >= MAX_FAILING:
            for forgotten in await storage.list_shortest(tx, FORGOTTEN_AT_ONCE):
                await storage.delete(tx, forgotten)
                rows.append((await ids.next_id(), DestinationRow(forgotten)))
        await storage.save(tx, failing)
        return None, rows

    async def _read(self) -> Sequence[FailingServer]:
        return await self._database.read(storage.list_failing)

    def _replace(self, rows: Sequence[FailingServer]) -> None:
        self._failing = {row.server: row for row in rows}

    def _apply(self, row: DestinationRow) -> None:
        if row.retry_ms:
            self._failing[row.server] = FailingServer(*attrs.astuple(row))
        else:
            self._failing.pop(row.server, None)


async def _limit(tx: Tx, ids: SharedStreamIds, server: str, now_ms: int, wait_ms: int) -> Written:
    before = await storage.get(tx, server)
    if before is not None and before.retry_ms > now_ms:
        return None, []
    limited = FailingServer(server, now_ms, now_ms + wait_ms, wait_ms, is_limited=True)
    stream_id = await ids.next_id()
    await storage.save(tx, limited)
    return None, [(stream_id, DestinationRow(*limited))]


async def _recover(tx: Tx, ids: SharedStreamIds, server: str) -> Written:
    if await storage.get(tx, server) is None:
        return None, []
    stream_id = await ids.next_id()
    await storage.delete(tx, server)
    return None, [(stream_id, DestinationRow(server))]
