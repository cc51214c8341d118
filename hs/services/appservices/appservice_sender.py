"""The duty that finds what application services are to get, and sends it; held by one process.

The rows of all streams go through one queue (`row_queue`), so that the interest of services is that
of the moment of the row. Events of interest are stored in the commit that stores how far the stream
was read (`waiting_events`). Each service's `TransactionDelivery` takes them out; deliveries run
from the start of a run to its end, whatever is still to be read.

A run consists of readings. A reading begins with what is stored (`catching_up`), whatever ended the
one before, and ends when more rows wait than fit; then the next one begins. Events that a reading
has caught up are stored, so the next one continues behind them even if it catches up for so long
that the queue overflows again. `sender_states` has the states of a run.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs
import trio

from hs.core.streams import (
    CACHES,
    DEVICE_LISTS,
    EVENTS,
    PRESENCE,
    RECEIPTS,
    TO_DEVICE,
    TYPING,
    CacheRow,
)
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import QueueOverflow
from hs.repl.leases import LAST_WORK_S
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.catching_up import EphemeralCatchUp, EventCatchUp, ReadingStart
from hs.services.appservices.ephemeral_queue import OutgoingQueue
from hs.services.appservices.event_interest import EventInterest
from hs.services.appservices.ping import REACHABLE
from hs.services.appservices.previous_memberships import PreviousMembershipReader
from hs.services.appservices.row_queue import RowQueue
from hs.services.appservices.row_selection import (
    EncryptionSelection,
    EphemeralSelection,
    EventSelection,
    Outgoings,
    RoomsOfAnyUser,
)
from hs.services.appservices.sender_states import SenderEvent, SenderStates
from hs.services.appservices.transactions import TransactionDelivery, TransactionMaker
from hs.services.appservices.waiting_events import MAX_EVENTS, WaitingEvents
from hs.services.rooms.store.memberships import Memberships
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database

STORE_EVENTS_S: Final = 0.25
"""How long events wait to be stored while more and more rows arrive."""

STORE_EVERY_S: Final = 60.0
"""How often the read position is stored while nothing of interest happens."""


Row = Any
Taker = Callable[[Batch[Row]], Awaitable[None]]


@attrs.frozen(eq=False)
class _Reading:
    """The parts of one reading, with what they have read; the next reading makes new ones."""

    waiting: WaitingEvents
    events: EventSelection
    takers: Mapping[str, Taker]  # by name of the stream
    event_catch_up: EventCatchUp
    ephemeral_catch_up: EphemeralCatchUp

    async def catch_up(self, start: ReadingStart) -> None:
        await self.event_catch_up.run(start)
        await self.ephemeral_catch_up.run(start)

    async def take(self, batch: Batch[Row]) -> None:
        await self.takers[batch.stream.name](batch)


class AppserviceSender:
    """Reads for all services, and runs their deliveries."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        interest: EventInterest,
        rooms: Memberships,
        past: PreviousMembershipReader,
        maker: TransactionMaker,
        calls: AppserviceClient,
    ) -> None:
        self._database = database
        self._feed = feed
        self._interest = interest
        self._rooms = RoomsOfAnyUser(database, rooms)
        self._past = past
        self._deliver = lambda outgoing: TransactionDelivery(outgoing, maker, calls, database).run()
        self._states = SenderStates()
        self._queue = RowQueue(feed, interest)
        self._outgoings: Outgoings = {}
        feed.subscribe(CACHES, self._note_reachable)

    @property
    def waiting(self) -> int:
        """The number of rows that wait in the queue."""
        return self._queue.waiting

    async def run(self) -> None:
        """Read and send for ever; return at once if there are no services to send to."""
        services = self._interest.services
        await self._database.write(
            storage.delete_other_services, [service.id for service in services]
        )
        if not services:
            return
        outgoings = self._outgoings = {service: OutgoingQueue(service) for service in services}
        with self._running(), self._queue.opened():
            async with trio.open_nursery() as nursery:
                for outgoing in outgoings.values():
                    nursery.start_soon(self._deliver, outgoing)
                while True:
                    await self._read(self._begin_reading(outgoings))

    def _note_reachable(self, batch: Batch[CacheRow]) -> None:
        """Let failed deliveries be retried; not through the queue, which may drop its rows."""
        for _, row in batch.rows:
            if row.cache == REACHABLE:
                for service, outgoing in self._outgoings.items():
                    if service.id in row.keys:
                        outgoing.reachable.set()

    async def _read(self, reading: _Reading) -> None:
        """Read until more rows wait than fit."""
        with self._queue.tables_opened():
            start = ReadingStart.of(self._feed)  # no await since the queue was opened
            await self._interest.load()
            await reading.catch_up(start)
            self._states.note(SenderEvent.CAUGHT_UP)
            await self._follow(reading)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._states.note(SenderEvent.RUN_BEGAN)
        try:
            yield
        finally:
            self._states.note(SenderEvent.RUN_ENDED)

    def _begin_reading(self, outgoings: Outgoings) -> _Reading:
        database, interest, rooms = self._database, self._interest, self._rooms
        waiting = WaitingEvents(database, self._states)
        events = EventSelection(interest, outgoings, rooms, waiting)
        ephemeral = EphemeralSelection(interest, outgoings, rooms)
        encryption = EncryptionSelection(interest, outgoings, rooms, database)
        takers: dict[str, Taker] = {
            EVENTS.name: events.take_events,
            CACHES.name: events.take_caches,
            RECEIPTS.name: ephemeral.take_receipts,
            TYPING.name: ephemeral.take_typing,
            PRESENCE.name: ephemeral.take_presence,
            TO_DEVICE.name: encryption.take_to_device,
            DEVICE_LISTS.name: encryption.take_device_lists,
        }
        return _Reading(
            waiting,
            events,
            takers,
            EventCatchUp(database, interest, self._past, events, waiting),
            EphemeralCatchUp(database, interest, outgoings, rooms, encryption),
        )

    async def _follow(self, reading: _Reading) -> None:
        try:
            await self._take_until_overflow(reading)
            await self._store(reading)
            self._states.note(SenderEvent.QUEUE_OVERFLOWED)
        finally:
            if self._states.may_store_at_end:
                with trio.move_on_after(LAST_WORK_S, shield=True):
                    await self._store(reading)

    async def _take_until_overflow(self, reading: _Reading) -> None:
        store_at = trio.current_time() + STORE_EVERY_S

        async def take(batch: Batch[Row]) -> None:
            # Rows of typing and presence may arrive faster than they are taken, for ever.
            nonlocal store_at
            await reading.take(batch)
            if reading.waiting:
                store_at = min(store_at, trio.current_time() + STORE_EVENTS_S)
            if len(reading.waiting) >= MAX_EVENTS or trio.current_time() >= store_at:
                await store()

        async def store() -> None:
            nonlocal store_at
            await self._store(reading)
            store_at = trio.current_time() + STORE_EVERY_S

        while True:
            try:
                with trio.move_on_at(store_at):
                    await self._queue.wait()
            except QueueOverflow:
                return
            await self._queue.serve_waiting(take)
            if reading.waiting or trio.current_time() >= store_at:
                await store()

    async def _store(self, reading: _Reading) -> None:
        if not self._queue:
            # All that was delivered is read; the feed knows the positions of silent writers too.
            position = reading.waiting.position.merge(self._feed.position(EVENTS))
            reading.waiting.position = position
        await reading.events.store()
