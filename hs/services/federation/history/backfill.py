"""Backfill: the events before a gap in a room's history, from other servers.

Rules:

- A client that reaches a gap waits for up to WAIT_S; the work goes on without it, for FILL_S at
  most. All clients of this process that reach gaps of a room wait for the same work.
- Few rooms are worked on at a time. Work that takes longer than SLOW_S makes way for the next room
  and goes on, so rooms with slow servers delay others by seconds; of too many that are slow, the
  work on the oldest ends, and its gap is asked for again later.
- Servers in the room are asked in turn until one has events that fill a gap. Of its response, the
  owner of the room stores the events that a stored event follows, directly or through others.
- The events whose prev_events are missing need the state before them: its IDs are asked for, and
  those state events and auth events that are missing. Up to MAX_EDGES such events are received at
  a time; the rest is received when the client scrolls on.
- If no server has an event, it is not asked for again until a time that grows with each failure.
  That a server could not be reached says nothing of its events: it is asked again soon.

Spec: server-server API, Backfilling and retrieving missing events.
"""

import logging
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

import attrs
import trio

from hs.core.errors import MatrixError, RemoteFault, Unavailable
from hs.core.ids import EventID, RoomID, ServerName
from hs.lib.clock import Clock
from hs.lib.fairness.held_slots import left_slot
from hs.services.federation.access.servers_to_ask import ServersToAsk
from hs.services.federation.history.history_fetcher import HistoryFetcher
from hs.services.federation.history.timestamp_lookup import TimestampLookup
from hs.services.rooms.read.older_history import NO_GAPS, GapReport, TimeQuery
from hs.services.rooms.store.room_servers import RoomServers
from hs.storage.database import Database
from hs.storage.rooms import gaps
from hs.storage.rooms.gaps import Gap

WAIT_S: Final = 15.0
FILL_S: Final = 180.0
MAX_GAPS: Final = 20
MAX_SERVERS: Final = 5
MAX_FILLS: Final = 4
SLOW_S: Final = 3.0
MAX_SLOW_FILLS: Final = 8
MAX_WAITING_FILLS: Final = 100
RETRY_S: Final = 5
MAX_RETRY_S: Final = 24 * 3600
UNREACHED_S: Final = 5
"""Pause if a server could not be reached; ServerBackoff limits the requests to it."""

log = logging.getLogger(__name__)


class _Result(Enum):
    """What came of asking a server."""

    STORED = auto()
    NOTHING = auto()
    UNREACHED = auto()


@attrs.define(eq=False)
class _Fill:
    """Work on the gaps of one room; `done` is set when it has ended."""

    room_id: RoomID
    gaps: Sequence[Gap]
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    is_slow: bool = False  # it has made way for others
    done: trio.Event = attrs.Factory(trio.Event)


@attrs.define(eq=False)
class HistoryBackfill:
    """Fills gaps when clients reach them. `run` does the work."""

    _database: Database
    _clock: Clock
    _room_servers: RoomServers
    _servers: ServersToAsk
    _fetcher: HistoryFetcher
    _times: TimestampLookup
    _fills: dict[RoomID, _Fill] = attrs.Factory(dict)
    _queue: list[_Fill] = attrs.Factory(list)
    _slow: list[_Fill] = attrs.Factory(list)
    _wake: trio.Event = attrs.Factory(trio.Event)

    async def fill(self, room_id: RoomID, depths: tuple[int, int]) -> GapReport:
        """Fill the gaps below the events between two depths; see OlderHistory."""
        if not await self._room_servers.servers_in(room_id):
            return NO_GAPS
        found = await self._database.read(
            gaps.list_between, room_id, depths, self._clock.now_ms(), MAX_GAPS
        )
        if not found:
            return NO_GAPS
        fill = self._fills.get(room_id)
        if fill is None:
            if len(self._fills) >= MAX_WAITING_FILLS:
                return GapReport(late_at=found[0].depth)
            fill = self._fills[room_id] = _Fill(room_id, found)
            self._queue.append(fill)
            self._wake.set()
        with trio.move_on_after(WAIT_S), left_slot():
            await fill.done.wait()
            return GapReport(changed=True)
        return GapReport(late_at=found[0].depth)

    async def find_closer(self, query: TimeQuery) -> EventID | None:
        """Find and store an event that is closer to a time; see OlderHistory."""
        return await self._times.find_closer(query)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work on gaps until cancelled."""
        task_status.started()
        slots = trio.Semaphore(MAX_FILLS)
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._queue:
                    await slots.acquire()
                    fill = self._queue.pop(0)
                    nursery.start_soon(self._work, fill, slots)
                    nursery.start_soon(self._make_way, fill, slots)

    async def _make_way(self, fill: _Fill, slots: trio.Semaphore) -> None:
        with trio.move_on_after(SLOW_S):
            await fill.done.wait()
        if fill.done.is_set():
            return
        if len(self._slow) >= MAX_SLOW_FILLS:
            self._slow.pop(0).scope.cancel()
        fill.is_slow = True
        self._slow.append(fill)
        slots.release()

    async def _work(self, fill: _Fill, slots: trio.Semaphore) -> None:
        try:
            fill.scope.deadline = trio.current_time() + FILL_S
            with fill.scope:
                await self._fill(fill)
        except (MatrixError, Unavailable) as error:
            log.info("could not store events before a gap in room %s: %s", fill.room_id, error)
        except Exception:
            # An error that one room's events cause must not stop the work on others.
            log.exception("could not fetch events before a gap in room %s", fill.room_id)
        finally:
            if not fill.is_slow:
                slots.release()
            elif fill in self._slow:
                self._slow.remove(fill)
            del self._fills[fill.room_id]
            fill.done.set()

    async def _fill(self, fill: _Fill) -> None:
        room_id = fill.room_id
        event_ids = [EventID(gap.event_id) for gap in fill.gaps]
        servers = await self._servers.in_room(room_id, MAX_SERVERS)
        # Recorded in advance: work that is cut off at FILL_S counts as a failure as well.
        await self._postpone(fill.gaps)
        all_reached = True
        for server in servers:
            result = await self._ask(server, room_id, event_ids)
            if result is _Result.STORED:
                still_missing = await self._database.read(gaps.stored_events, event_ids)
                await self._resume([gap for gap in fill.gaps if gap.event_id not in still_missing])
                return
            all_reached &= result is not _Result.UNREACHED
        if all_reached:
            log.info("no server has the events before %d gaps in room %s", len(event_ids), room_id)
        else:
            retry_ms = self._clock.now_ms() + UNREACHED_S * 1000
            rows = [(gap.event_id, gap.failures, retry_ms) for gap in fill.gaps]
            await self._database.write(gaps.set_retry, rows)

    async def _ask(
        self, server: ServerName, room_id: RoomID, event_ids: Sequence[EventID]
    ) -> _Result:
        """Ask one server for the missing events and those before them."""
        result = _Result.NOTHING
        try:
            if await self._fetcher.receive_before(server, room_id, event_ids):
                return _Result.STORED
        except* RemoteFault as faults:
            log.info("backfill of room %s failed: %s", room_id, faults.exceptions[0])
            if any(_is_unreached(fault) for fault in faults.exceptions):
                result = _Result.UNREACHED
        return result

    async def _postpone(self, postponed: Sequence[Gap]) -> None:
        now_ms = self._clock.now_ms()
        rows = []
        for gap in postponed:
            pause_s = min(MAX_RETRY_S, RETRY_S << min(gap.failures, 15))
            rows.append((gap.event_id, gap.failures + 1, now_ms + pause_s * 1000))
        await self._database.write(gaps.set_retry, rows)

    async def _resume(self, asked: Sequence[Gap]) -> None:
        """Allow the gaps that one response left to be asked for at once."""
        await self._database.write(gaps.set_retry, [(gap.event_id, 0, 0) for gap in asked])


def _is_unreached(fault: BaseException) -> bool:
    """Return whether a server did not respond, or only with an error of its own."""
    return (
        isinstance(fault, RemoteFault)
        and fault.retry
        and (fault.error is None or fault.error.status >= 500)
    )
