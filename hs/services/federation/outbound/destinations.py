"""All destinations of one federation sender, and the tasks that serve them.

A destination is in memory while something is queued for it or it is behind; a task serves it while
there is something to send. One that failed has no task until the time of its next attempt, or until
a request of it arrives.
"""

import heapq
import itertools
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, Protocol

import attrs
import trio

from hs.core.ids import ServerName
from hs.lib.clock import Clock
from hs.services.federation.outbound.destination import Behind, Destination, QueuedEdu
from hs.services.federation.outbound.outgoing import OutgoingPdu
from hs.storage.database import DatabaseError
from hs.storage.federation.outbound import BehindRecord

FIRST_LOOK_S: Final = 30.0
"""Within this time after the start all destinations that are behind are tried."""

BEGUN_AT_ONCE: Final = 20
"""Tasks that begin in one pass of the scheduler: each computes for some 0.2 ms before it waits."""

AFTER_FAULT_S: Final = 60.0
"""Pause of a destination after an unexpected error."""

log = logging.getLogger(__name__)


class Delivery(Protocol):
    """Serves a destination until nothing is left to send or it fails."""

    async def run(self, destination: Destination) -> None:
        """Send everything queued for a destination."""
        ...


@attrs.define(eq=False)
class DeliveredPositions:
    """The last event, and the last device list change, that were queued for all destinations."""

    events: int = 0
    devices: int = 0


@attrs.define(eq=False)
class Destinations:
    """The destinations by name; `is_mine` says which ones this sender serves."""

    is_mine: Callable[[ServerName], bool]
    _clock: Clock
    delivered: DeliveredPositions = attrs.Factory(DeliveredPositions)
    _by_name: dict[ServerName, Destination] = attrs.Factory(dict)
    _due: list[tuple[float, int, Destination]] = attrs.Factory(list)
    _numbers: Iterator[int] = attrs.Factory(itertools.count)
    _due_changed: trio.Event = attrs.Factory(trio.Event)
    _ready: list[Destination] = attrs.Factory(list)
    _has_ready: trio.Event = attrs.Factory(trio.Event)

    def __iter__(self) -> Iterator[Destination]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def clear(self) -> None:
        """Forget all destinations, as their sender starts over."""
        self._by_name.clear()
        self._due.clear()
        self._ready.clear()
        self.delivered = DeliveredPositions()

    # Adding

    def note_delivered(self, stream_id: int) -> None:
        """Note that an event was queued for all its destinations."""
        self.delivered.events = max(self.delivered.events, stream_id)

    def note_delivered_devices(self, position: int) -> None:
        """Note that a device list change was queued for all its destinations."""
        self.delivered.devices = max(self.delivered.devices, position)

    def send_pdu(self, servers: Iterable[ServerName], pdu: OutgoingPdu) -> None:
        """Queue a PDU for servers."""
        for server in servers:
            if self.is_mine(server):
                destination = self._destination(server)
                if not destination.add_pdu(pdu):
                    self._drop_queue(destination)
                self._start(destination)

    def send_edu(self, servers: Iterable[ServerName], key: Hashable, edu: QueuedEdu) -> None:
        """Queue an EDU for servers."""
        for server in servers:
            if self.is_mine(server):
                destination = self._destination(server)
                if not destination.add_edu(key, edu):
                    self._drop_queue(destination)
                self._start(destination)

    def add_edu_for_later(
        self, servers: Iterable[ServerName], key: Hashable, edu: QueuedEdu
    ) -> None:
        """Queue an EDU that is sent with the next transaction, or after `wake`."""
        for server in servers:
            if self.is_mine(server):
                self._destination(server).add_edu(key, edu)

    def note_messages(self, servers: Iterable[ServerName]) -> None:
        """Note that to-device messages for servers were stored."""
        for server in servers:
            if self.is_mine(server):
                destination = self._destination(server)
                destination.has_messages = True
                self._start(destination)

    def add_behind(self, records: Iterable[BehindRecord], jitter: Callable[[], float]) -> None:
        """Add the destinations that were behind when the sender started."""
        for record in records:
            server = ServerName(record.server)
            if self.is_mine(server):
                destination = self._destination(server)
                destination.behind = Behind(
                    record.since_ms, record.events_after, record.devices_after, is_stored=True
                )
                destination.failures = record.failures
                self.retry_in(destination, FIRST_LOOK_S * jitter())

    # Waking

    def wake(self, servers: Iterable[ServerName]) -> None:
        """Serve destinations that have something to send."""
        for server in servers:
            destination = self._by_name.get(server)
            if destination is not None:
                self._start(destination)

    def note_heard(self, servers: Iterable[ServerName]) -> None:
        """Try destinations now that have sent a request or responded to one."""
        for server in servers:
            destination = self._by_name.get(server)
            if destination is not None and destination.retry_s > trio.current_time():
                destination.retry_s = 0.0
                self._start(destination)

    def retry_in(self, destination: Destination, pause_s: float) -> None:
        """Try a destination again after a pause."""
        destination.retry_s = trio.current_time() + pause_s
        entry = (destination.retry_s, next(self._numbers), destination)
        heapq.heappush(self._due, entry)
        if self._due[0] is entry:
            self._due_changed.set()

    def fall_behind(self, destination: Destination) -> Behind:
        """Drop the queue of a destination, which has to catch up."""
        return destination.fall_behind(
            self._clock.now_ms(), self.delivered.events, self.delivered.devices
        )

    def forget_idle(self, destination: Destination) -> None:
        """Remove a destination that is idle."""
        if destination.is_idle and not destination.is_running and self._has(destination):
            del self._by_name[destination.server]

    # Serving

    async def run(self, delivery: Delivery) -> None:
        """Serve all destinations until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_due)
            while True:
                await self._has_ready.wait()
                self._has_ready = trio.Event()
                ready, self._ready = self._ready, []
                for number, destination in enumerate(ready, 1):
                    nursery.start_soon(self._serve, delivery, destination)
                    if number % BEGUN_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()

    async def _serve(self, delivery: Delivery, destination: Destination) -> None:
        try:
            await delivery.run(destination)
        except DatabaseError:
            raise
        except Exception:
            # An error of one destination must not stop the others.
            log.exception(
                "sending to %s failed, retrying in %.0f s", destination.server, AFTER_FAULT_S
            )
            self.retry_in(destination, AFTER_FAULT_S)
        finally:
            destination.is_running = False
        # No await since the delivery has looked for the last time.
        self.forget_idle(destination)

    async def _wait_for_due(self) -> None:
        while True:
            self._due_changed = trio.Event()
            wait_s = self._due[0][0] - trio.current_time() if self._due else float("inf")
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._due_changed.wait()
                continue
            _, _, destination = heapq.heappop(self._due)
            if self._has(destination):
                self._start(destination)

    def _start(self, destination: Destination) -> None:
        if destination.is_running or destination.retry_s > trio.current_time():
            return
        destination.is_running = True
        self._ready.append(destination)
        self._has_ready.set()

    def _has(self, destination: Destination) -> bool:
        """Return whether this object has not been forgotten, and perhaps replaced, meanwhile."""
        return self._by_name.get(destination.server) is destination

    def _drop_queue(self, destination: Destination) -> None:
        log.warning("%s falls behind: too much is queued for it", destination.server)
        self.fall_behind(destination)

    def _destination(self, server: ServerName) -> Destination:
        destination = self._by_name.get(server)
        if destination is None:
            destination = self._by_name[server] = Destination(server)
        return destination
