"""The duty that finds what application services are to get, and sends it; held by one process.

The rows of all streams go through one queue, so that the interest of services is always that of
the moment of the row. Events of interest are stored in the commit that stores how far the stream
was read (`waiting_events`); then each service's `TransactionDelivery` takes them out. A run begins
with what is stored (`catching_up`), whatever ended the run before. `sender_states` has the states
of a run.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs
import trio

from hs.core.stream_def import StreamDef
from hs.core.streams import CACHES, DEVICE_LISTS, EVENTS, PRESENCE, RECEIPTS, TO_DEVICE, TYPING
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.catching_up import EphemeralCatchUp, EventCatchUp, RunStart
from hs.services.appservices.ephemeral_queue import OutgoingQueue
from hs.services.appservices.event_interest import EventInterest, Services
from hs.services.appservices.previous_memberships import PreviousMembershipReader
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

MAX_ROWS: Final = 200_000
"""Rows that wait in the queue. With more, the run ends, and the next one reads the tables."""

STORE_EVERY_S: Final = 60.0
"""How often the read position is stored while nothing of interest happens."""

LAST_STORE_S: Final = 5.0

Row = Any
Taker = Callable[[Batch[Row]], Awaitable[None]]


@attrs.frozen(eq=False)
class _Run:
    """The parts of one run of the duty, with what they have read; the next run makes new ones."""

    outgoings: Outgoings
    waiting: WaitingEvents
    takers: Mapping[str, Taker]  # by name of the stream
    event_catch_up: EventCatchUp
    ephemeral_catch_up: EphemeralCatchUp

    async def catch_up(self, start: RunStart) -> None:
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
        self._queue: FeedQueue[Batch[Row]] = FeedQueue(
            "application services",
            MAX_ROWS,
            WhenFull.START_OVER,
            is_open=False,
            size=lambda batch: len(batch.rows),
        )
        for stream in _streams_for(interest.services):
            self._queue.follow(feed, stream, lambda batch: (batch,))

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
        with self._running(), self._queue.opened():
            start = RunStart.of(self._feed)  # no await since the queue was opened
            run = self._make_run(services)
            await self._interest.load()
            await run.catch_up(start)
            self._states.note(SenderEvent.CAUGHT_UP)
            async with trio.open_nursery() as nursery:
                for outgoing in run.outgoings.values():
                    nursery.start_soon(self._deliver, outgoing)
                await self._follow(run)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._states.note(SenderEvent.RUN_BEGAN)
        try:
            yield
        finally:
            self._states.note(SenderEvent.RUN_ENDED)

    def _make_run(self, services: Services) -> _Run:
        database, interest, rooms = self._database, self._interest, self._rooms
        outgoings = {service: OutgoingQueue(service) for service in services}
        waiting = WaitingEvents(database, self._states)
        events = EventSelection(interest, outgoings, rooms, waiting)
        ephemeral = EphemeralSelection(interest, outgoings, rooms)
        encryption = EncryptionSelection(interest, outgoings, database)
        takers: dict[str, Taker] = {
            EVENTS.name: events.take_events,
            CACHES.name: events.take_caches,
            RECEIPTS.name: ephemeral.take_receipts,
            TYPING.name: ephemeral.take_typing,
            PRESENCE.name: ephemeral.take_presence,
            TO_DEVICE.name: encryption.take_to_device,
            DEVICE_LISTS.name: encryption.take_device_lists,
        }
        return _Run(
            outgoings,
            waiting,
            takers,
            EventCatchUp(database, interest, self._past, events, waiting),
            EphemeralCatchUp(database, interest, outgoings, rooms, encryption),
        )

    async def _follow(self, run: _Run) -> None:
        try:
            await self._take_for_ever(run)
        finally:
            if self._states.may_store_at_end:
                with trio.move_on_after(LAST_STORE_S, shield=True):
                    await self._store(run)

    async def _take_for_ever(self, run: _Run) -> None:
        async def take(batches: list[Batch[Row]]) -> None:
            for batch in batches:
                await run.take(batch)
                if len(run.waiting) >= MAX_EVENTS:
                    await self._store(run)

        store_at = trio.current_time() + STORE_EVERY_S
        while True:
            with trio.move_on_at(store_at):
                await self._queue.wait()
            await self._queue.serve_waiting(take)
            if len(run.waiting) or trio.current_time() >= store_at:
                await self._store(run)
                store_at = trio.current_time() + STORE_EVERY_S

    async def _store(self, run: _Run) -> None:
        if not self._queue:
            # All that was delivered is read; the feed knows the positions of silent writers too.
            run.waiting.position = run.waiting.position.merge(self._feed.position(EVENTS))
        with_new_events = await run.waiting.store_if_changed()
        for service, outgoing in run.outgoings.items():
            if service.id in with_new_events:
                outgoing.add_events()


def _streams_for(services: Services) -> list[StreamDef[Any]]:
    """List the streams that something may be sent of to one of the services."""
    if not services:
        return []
    streams: list[StreamDef[Any]] = [EVENTS, CACHES]
    if any(service.registration.receives_ephemeral for service in services):
        streams += [RECEIPTS, TYPING, PRESENCE]
    if any(service.registration.receives_encryption for service in services):
        streams += [TO_DEVICE, DEVICE_LISTS]
    return streams
