"""The duty that sends to a share of the other servers, in one process at a time.

It follows the streams, queues PDUs and EDUs for the destinations, and stores once in a while the
position up to which all of them have everything. A run begins at the stored position. If the queue
of rows overflows, they are read from the tables instead.
"""

import random
from collections.abc import Iterator
from typing import Final, NoReturn

import attrs
import trio

from hs.core.ids import ServerName
from hs.core.streams import (
    DESTINATIONS,
    DEVICE_LISTS,
    EVENTS,
    FEDERATION,
    RECEIPTS,
    DestinationRow,
    FederationRow,
)
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, QueueOverflow, WhenFull
from hs.repl.leases import LAST_WORK_S
from hs.services.federation.outbound.delivery import DestinationDelivery
from hs.services.federation.outbound.destinations import Destinations
from hs.services.federation.outbound.event_routing import EventRouting, SentEvent
from hs.services.federation.outbound.memory_rows import MemoryRows
from hs.services.federation.outbound.outgoing_messages import MESSAGES
from hs.services.federation.outbound.sender_positions import SenderPosition, SenderPositions
from hs.services.federation.outbound.table_rows import (
    ChangedDevice,
    DeviceRouting,
    MovedReceipt,
    ReceiptRouting,
)
from hs.storage.database import Database
from hs.storage.federation import outbound as storage
from hs.storage.federation import outgoing_to_device

MAX_WAITING: Final = 20_000
AT_ONCE: Final = 200
STORE_EVERY_S: Final = 15.0

_LOST: Final = "lost"
"""Entry of the queue: to-device messages may have been stored without a row that says so."""

_Entry = SentEvent | MovedReceipt | ChangedDevice | str


@attrs.frozen(eq=False, kw_only=True)
class Routing:
    """The routing of each kind of rows to destinations."""

    events: EventRouting
    receipts: ReceiptRouting
    devices: DeviceRouting
    memory: MemoryRows


class FederationSender:
    """Sends to the destinations of one sender."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        destinations: Destinations,
        routing: Routing,
        delivery: DestinationDelivery,
        positions: SenderPositions,
    ) -> None:
        self.destinations = destinations
        self.delivery = delivery
        self._database = database
        self._feed = feed
        self._routing = routing
        self._positions = positions
        self._is_running = False
        self._reached: SenderPosition | None = None
        self._queue: FeedQueue[_Entry] = FeedQueue(
            "federation", MAX_WAITING, WhenFull.START_OVER, is_open=False
        )
        self._queue.follow(feed, EVENTS, routing.events.select)
        self._queue.follow(feed, RECEIPTS, routing.receipts.select)
        self._queue.follow(feed, DEVICE_LISTS, routing.devices.select)
        self._queue.follow(feed, FEDERATION, self._on_federation)
        feed.subscribe(DESTINATIONS, self._on_destinations)
        routing.memory.follow(feed)

    @property
    def waiting(self) -> int:
        """The number of rows and destinations that wait."""
        return self._queue.waiting + len(self.destinations)

    async def run(self) -> None:
        """Send for ever, beginning at the stored position."""
        self.destinations.clear()
        begin = self._feed_position()  # of the very first run
        self._reached = await self._positions.load() or begin
        # Before anything is sent: the other senders begin where this one does.
        await self._positions.begin(self._reached, sorted(self._feed.positions_of(EVENTS)))
        behind = await self._database.read(storage.list_behind)
        self.destinations.add_behind(behind, random.random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.destinations.run, self.delivery)
            nursery.start_soon(self._routing.memory.run)
            nursery.start_soon(self._routing.receipts.run)
            nursery.start_soon(self._store_periodically)
            await self._read_for_ever()

    async def _read_for_ever(self) -> NoReturn:
        while True:
            try:
                with self._queue.opened():
                    await self._read()
            except QueueOverflow:
                continue

    async def _read(self) -> None:
        """Read the stored rows, then those of the feed, until the queue overflows."""
        start = self._feed_position()  # no await since the queue was opened
        # Rows after the position of the slowest writer are not in the queue either.
        receipts_upto = self._feed.position(RECEIPTS).most()
        devices_upto = self._feed.position(DEVICE_LISTS).most()
        reached = self._reached
        assert reached is not None
        self.destinations.note_delivered(reached.events.floor)
        self.destinations.note_delivered_devices(reached.devices)
        routing = self._routing
        await routing.events.catch_up(reached.events, start.events)
        await routing.receipts.catch_up(reached.receipts, receipts_upto)
        await routing.devices.catch_up(reached.devices, devices_upto, start.devices)
        self._reached = SenderPosition(
            start.events.merge(reached.events),
            max(start.receipts, reached.receipts),
            max(start.devices, reached.devices),
        )
        await self._find_messages()
        await self.store()
        await self._queue.serve(self._work, at_most=AT_ONCE)

    async def _work(self, entries: list[_Entry]) -> None:
        events = [entry for entry in entries if isinstance(entry, SentEvent)]
        await self._routing.events.route(events)
        for entry in entries:
            if isinstance(entry, MovedReceipt):
                await self._routing.receipts.route(entry)
            elif isinstance(entry, ChangedDevice):
                await self._routing.devices.route(entry)
            elif isinstance(entry, str):
                await self._find_messages()
        self._note_reached(entries)

    def _note_reached(self, entries: list[_Entry]) -> None:
        assert self._reached is not None
        events, receipts, devices = attrs.astuple(self._reached, recurse=False)
        for entry in entries:
            if isinstance(entry, SentEvent):
                events = events.advance(entry.writer, entry.stream_id)
            elif isinstance(entry, MovedReceipt):
                receipts = max(receipts, entry.settled)
            elif isinstance(entry, ChangedDevice):
                devices = max(devices, entry.settled)
        self._reached = SenderPosition(events, receipts, devices)

    async def _find_messages(self) -> None:
        servers = await self._database.read(outgoing_to_device.list_destinations)
        self.destinations.note_messages(map(ServerName, servers))

    def _on_federation(self, batch: Batch[FederationRow]) -> Iterator[_Entry]:
        if batch.reset:
            yield _LOST
        for _, row in batch.rows:
            servers = map(ServerName, row.destinations)
            if row.kind == MESSAGES:
                self.destinations.note_messages(servers)

    def _on_destinations(self, batch: Batch[DestinationRow]) -> None:
        """Try servers now that have sent any process a request or a response."""
        servers = [ServerName(row.server) for _, row in batch.rows if not row.retry_ms]
        self.destinations.note_heard(servers)

    # Positions

    async def _store_periodically(self) -> None:
        try:
            while True:
                await trio.sleep(STORE_EVERY_S)
                await self.store()
        finally:
            with trio.move_on_after(LAST_WORK_S, shield=True):
                await self.store()

    async def store(self) -> None:
        """Store how far all destinations are, and delete rows of those that have caught up."""
        if self._reached is None:
            return
        for destination in list(self.destinations):
            if destination.behind is not None:
                await self.delivery.store_behind(destination, destination.behind)
        position = self._complete_position()
        writers = sorted(self._feed.positions_of(EVENTS))
        await self._positions.store(position, writers)
        caught_up = [
            destination
            for destination in self.destinations
            if destination.has_caught_up_by(position.events.most(), position.devices)
        ]
        if caught_up:
            await self.delivery.delete_rows(caught_up, position.events.floor)

    def _complete_position(self) -> SenderPosition:
        """Return the position up to which every destination has everything or is behind."""
        assert self._reached is not None
        reached = self._reached
        if not self._queue:
            # All that was delivered is queued; the feed knows the positions of silent writers too.
            feed = self._feed_position()
            reached = self._reached = SenderPosition(
                reached.events.merge(feed.events),
                max(reached.receipts, feed.receipts),
                max(reached.devices, feed.devices),
            )
        events, receipts, devices = attrs.astuple(reached, recurse=False)
        for destination in self.destinations:
            first = destination.first_event()
            events = events if first is None else events.capped(first - 1)
            first = destination.first_receipt()
            receipts = receipts if first is None else min(receipts, first - 1)
            first = destination.first_device_change()
            devices = devices if first is None else min(devices, first - 1)
        return SenderPosition(events, receipts, devices)

    def _feed_position(self) -> SenderPosition:
        feed = self._feed
        return SenderPosition(
            feed.position(EVENTS),
            feed.position(RECEIPTS).floor,
            feed.position(DEVICE_LISTS).floor,
        )
