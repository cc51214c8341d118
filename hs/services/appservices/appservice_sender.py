"""The duty that finds what application services are to get, and sends it; held by one process.

Streams are read as the feed brings them, in one queue, so that what is known of rooms is always
that of the moment. Events of interest go into a table in the commit that notes how far the stream
is read: whatever happens to the process, each waits there once. Then each service's delivery
takes them out. What interests nobody costs a look into a dictionary.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, Protocol

import trio

from hs.core.errors import Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.repl.feed import Batch, Feed
from hs.repl.rows import (
    CacheRow,
    DeviceListRow,
    EventRow,
    PresenceRow,
    ReceiptRow,
    StateChange,
    ToDeviceRow,
    TypingRow,
)
from hs.repl.streams import (
    CACHES,
    DEVICE_LISTS,
    EVENTS,
    PRESENCE,
    RECEIPTS,
    TO_DEVICE,
    TYPING,
    StreamDef,
)
from hs.services.appservices.alias_namespaces import ALIASES
from hs.services.appservices.appservice_client import ServiceCalls
from hs.services.appservices.appservice_registry import Service
from hs.services.appservices.ephemeral_queue import Outgoing, ReceiptNote
from hs.services.appservices.event_interest import Interest
from hs.services.appservices.ping import REACHABLE
from hs.services.appservices.transactions import Delivery, TransactionMaker
from hs.storage.accounts import users
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from hs.storage.devices import device_lists, to_device

PAGE: Final = 500
MAX_WANTED: Final = 500
"""Events that are written at once."""

SAVE_EVERY_S: Final = 60.0
"""How often it is written how far the stream is read, while nothing of interest happens."""

LAST_SAVE_S: Final = 5.0

Row = Any
Taker = Callable[[Batch[Row]], Awaitable[None]]

log = logging.getLogger(__name__)


class RoomsOfUsers(Protocol):
    """Knows the rooms of our users."""

    def is_local(self, user_id: str) -> bool: ...

    async def joined_rooms(self, user_id: UserID) -> Collection[RoomID]: ...


class PastMemberships(Protocol):
    """Knows what member events changed."""

    async def memberships(self, event_id: EventID) -> tuple[str | None, str | None]:
        """Give the membership before a member event, and the one that it sets."""
        ...


class ReadElsewhere(Unavailable):
    """Another process has read on, so that this one must begin with what is stored."""

    def __init__(self) -> None:
        super().__init__("another process reads for application services by now")


class AppserviceSender:
    """Reads for all services, and runs their deliveries."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        interest: Interest,
        rooms: RoomsOfUsers,
        past: PastMemberships,
        maker: TransactionMaker,
        calls: ServiceCalls,
    ) -> None:
        self._database = database
        self._feed = feed
        self._interest = interest
        self._rooms = rooms
        self._past = past
        self._maker = maker
        self._calls = calls
        self._outgoing: dict[Service, Outgoing] = {}
        self._queue: deque[tuple[Taker, Batch[Row]]] = deque()
        self._arrived = trio.Event()
        self._is_reading = False
        self._read = VectorPosition()
        self._saved = VectorPosition()
        self._stored: str | None = None
        self._wanted: list[tuple[str, str]] = []
        self._in_doubt = False
        self._subscribe()

    @property
    def waiting(self) -> int:
        """How many rows of streams are not looked at yet."""
        return sum(len(batch.rows) for _, batch in self._queue)

    async def run(self) -> None:
        """Read and send, for ever; at once over if there are no services to send to."""
        services = self._interest.services
        await self._database.write(storage.forget_others, [one.id for one in services])
        if not services:
            return
        self._queue.clear()
        self._wanted = []
        self._in_doubt = False
        self._outgoing = {service: Outgoing(service) for service in services}
        start = {stream.name: self._feed.position(stream) for stream in (EVENTS, RECEIPTS)}
        start[DEVICE_LISTS.name] = self._feed.position(DEVICE_LISTS)
        self._is_reading = True
        try:
            await self._interest.load()
            await self._catch_up(start)
            async with trio.open_nursery() as nursery:
                for outgoing in self._outgoing.values():
                    delivery = Delivery(outgoing, self._maker, self._calls, self._database)
                    nursery.start_soon(delivery.run)
                await self._read_for_ever()
        finally:
            self._is_reading = False

    # What the feed brings

    def _subscribe(self) -> None:
        if not self._interest.services:
            return
        registrations = [one.registration for one in self._interest.services]
        self._follow(EVENTS, self._take_events)
        self._follow(CACHES, self._take_caches)
        if any(one.receives_ephemeral for one in registrations):
            self._follow(RECEIPTS, self._take_receipts)
            self._follow(TYPING, self._take_typing)
            self._follow(PRESENCE, self._take_presence)
        if any(one.receives_encryption for one in registrations):
            self._follow(TO_DEVICE, self._take_to_device)
            self._follow(DEVICE_LISTS, self._take_device_lists)

    def _follow(self, stream: StreamDef[Any], take: Taker) -> None:
        def on_batch(batch: Batch[Row]) -> None:
            if self._is_reading:
                self._queue.append((take, batch))
                self._arrived.set()

        self._feed.subscribe(stream, on_batch)

    async def _read_for_ever(self) -> None:
        try:
            while True:
                with trio.move_on_after(SAVE_EVERY_S) as waiting:
                    await self._arrived.wait()
                self._arrived = trio.Event()
                while self._queue:
                    take, batch = self._queue[0]
                    await take(batch)
                    self._queue.popleft()
                    if len(self._wanted) >= MAX_WANTED:
                        await self._save()
                if self._wanted or waiting.cancelled_caught:
                    await self._save()
        finally:
            with trio.move_on_after(LAST_SAVE_S, shield=True):
                if not self._in_doubt:
                    await self._save()

    async def _save(self) -> None:
        if not self._queue:
            # All that was delivered is read; this knows silent writers as well.
            self._read = self._read.merge(self._feed.position(EVENTS))
        if self._wanted or self._read != self._saved:
            await self._write()

    async def _write(self) -> None:
        wanted, position = self._wanted, self._read
        # Cancelled here, nobody knows whether it was written: the next run reads it again.
        self._in_doubt = True
        encoded = position.encode()
        if not await self._database.write(storage.add_waiting, wanted, self._stored, encoded):
            raise ReadElsewhere
        self._stored = encoded
        self._in_doubt = False
        self._wanted, self._saved = [], position
        ids = {service_id for service_id, _ in wanted}
        for service, outgoing in self._outgoing.items():
            if service.id in ids:
                outgoing.add_events()

    async def _take_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if not self._read.covers(batch.writer, stream_id):
                self._read = self._read.advance(batch.writer, stream_id)
                if not (row.outlier or row.soft_failed or row.rejected):
                    self._want(row.room_id, row.event_id, row.type, row.sender, row.state_key)
            # What was caught up with may have happened after members were read.
            if row.type == event_types.MEMBER or row.state_changes is not None:
                await self._follow_members(row)

    def _want(
        self, room_id: str, event_id: str, event_type: str, sender: str, state_key: str | None
    ) -> None:
        for service in self._interest.in_event(room_id, event_type, sender, state_key):
            self._wanted.append((service.id, event_id))

    async def _follow_members(self, row: EventRow) -> None:
        changes = row.changes()
        before = self._interest.in_room(row.room_id)
        sharing = [one for one in before if one.registration.receives_encryption]
        self._interest.changed(row.room_id, changes)
        if sharing:
            for event_type, user_id, _, membership in changes:
                if event_type == event_types.MEMBER:
                    await self._follow_sharing(sharing, user_id, membership)

    async def _follow_sharing(
        self, services: list[Service], user_id: str, membership: str | None
    ) -> None:
        """Tell services whose devices they have to know from now on, and whose no more."""
        if membership == event_types.JOIN:
            for service in services:
                self._outgoing[service].add_device_list(user_id, is_shared=True)
        elif membership in (event_types.LEAVE, event_types.BAN):
            others = self._interest.in_rooms(await self._rooms_of(user_id))
            for service in services:
                if service not in others:
                    self._outgoing[service].add_device_list(user_id, is_shared=False)

    async def _take_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            # Some rows were lost, while Redis was away for instance.
            await self._interest.load_aliases()
        for _, row in batch.rows:
            if row.cache == ALIASES:
                for room_id in row.keys:
                    await self._interest.load_aliases_of(room_id)
            elif row.cache == REACHABLE:
                for service, outgoing in self._outgoing.items():
                    if service.id in row.keys:
                        outgoing.reachable.set()

    # What passes

    async def _take_receipts(self, batch: Batch[ReceiptRow]) -> None:
        for _, row in batch.rows:
            self._note_receipt(
                (row.room_id, row.receipt_type, row.user_id, row.thread_id or ""),
                ReceiptNote(row.event_id, row.ts),
            )
        self._reach(storage.RECEIPTS, batch.position)

    def _note_receipt(self, key: tuple[str, str, str, str], note: ReceiptNote) -> None:
        room_id, receipt_type, user_id, _ = key
        for service in self._interest.in_room(room_id):
            is_shown = receipt_type == "m.read" or service.owns_user(user_id)
            if service.registration.receives_ephemeral and is_shown:
                outgoing = self._outgoing[service]
                outgoing.add(outgoing.receipts, key, note)

    async def _take_typing(self, batch: Batch[TypingRow]) -> None:
        for _, row in batch.rows:
            for service in self._interest.in_room(row.room_id):
                if service.registration.receives_ephemeral:
                    outgoing = self._outgoing[service]
                    outgoing.add(outgoing.typing, row.room_id, row.user_ids)

    async def _take_presence(self, batch: Batch[PresenceRow]) -> None:
        for _, row in batch.rows:
            concerned = {*self._interest.owners(row.user_id)}
            concerned |= self._interest.in_rooms(await self._rooms_of(row.user_id))
            for service in concerned:
                if service.registration.receives_ephemeral:
                    outgoing = self._outgoing[service]
                    outgoing.add(outgoing.presence, row.user_id, row)

    # End-to-end encryption

    async def _take_to_device(self, batch: Batch[ToDeviceRow]) -> None:
        for _, row in batch.rows:
            for user_id, device_id in row.devices:
                await self._note_device(user_id, device_id, has_messages=not row.keys)

    async def _note_device(self, user_id: str, device_id: str, *, has_messages: bool) -> None:
        for service in self._interest.owners(user_id):
            encrypts = service.registration.receives_encryption
            if encrypts and await self._is_of_service(user_id, service):
                outgoing = self._outgoing[service]
                kept = outgoing.inboxes if has_messages else outgoing.counts
                outgoing.add(kept, (user_id, device_id), None)

    async def _is_of_service(self, user_id: str, service: Service) -> bool:
        """Tell whether a user's messages are taken out of their inbox for a service.

        Of users that it only shares, those who log in themselves would never get theirs.
        """
        if service.reserves_user(user_id):
            return True
        user = await self._database.read(users.find_user, user_id)
        return user is not None and user.appservice_id == service.id

    async def _take_device_lists(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            if not row.signatures:
                self._note_device_list(row.user_id, row.room_ids)
            if row.device_id is not None:
                # One-time keys may have come with those of the device.
                await self._note_device(row.user_id, row.device_id, has_messages=False)
        self._reach(storage.DEVICE_LISTS, batch.position)

    def _note_device_list(self, user_id: str, room_ids: Collection[str]) -> None:
        for service in {*self._interest.owners(user_id), *self._interest.in_rooms(room_ids)}:
            if service.registration.receives_encryption:
                self._outgoing[service].add_device_list(user_id, is_shared=True)

    def _reach(self, stream: str, position: int) -> None:
        for outgoing in self._outgoing.values():
            outgoing.reached[stream] = position

    async def _rooms_of(self, user_id: str) -> Collection[str]:
        if self._rooms.is_local(user_id):
            return await self._rooms.joined_rooms(UserID(user_id))
        return await self._database.read(device_lists.rooms_of, user_id)

    # After a restart

    async def _catch_up(self, start: dict[str, VectorPosition]) -> None:
        """Read what happened while nobody read; at the very first start nothing did."""
        positions = await self._database.read(storage.positions, storage.ALL)
        self._stored = positions.get(storage.EVENTS)
        begin = start[EVENTS.name]
        self._read = begin if self._stored is None else VectorPosition.parse(self._stored)
        moved = await self._rewind()
        await self._catch_up_events(begin, moved)
        await self._write()
        reached = {stream: start[stream].most() for stream in (RECEIPTS.name, DEVICE_LISTS.name)}
        for outgoing in self._outgoing.values():
            await self._catch_up_rest(outgoing, reached)
        encrypted = any(one.registration.receives_encryption for one in self._outgoing)
        if encrypted:
            for device in await self._database.read(to_device.devices_with_messages):
                await self._note_device(*device, has_messages=True)
            for device in await self._database.read(storage.devices_with_keys):
                await self._note_device(*device, has_messages=False)

    async def _catch_up_events(self, begin: VectorPosition, moved: dict[str, StateChange]) -> None:
        """Read events that were stored meanwhile, each as if its users were where they were.

        What came behind `begin` waits in the queue, and is not read here: then who is where is
        known as of the very place at which the queue begins.
        """
        after = self._read.floor
        while not self._read.covers_all(begin):
            found = await self._database.read(storage.newer_events, after, PAGE)
            for one in found:
                if self._read.covers(one.writer, one.stream_id):
                    continue
                if begin.covers(one.writer, one.stream_id):
                    self._read = self._read.advance(one.writer, one.stream_id)
                    self._want(one.room_id, one.event_id, one.type, one.sender, one.state_key)
                    if one.event_id in moved:
                        self._interest.changed(one.room_id, (moved[one.event_id],))
            if len(found) < PAGE:
                self._read = self._read.merge(begin)
                break
            await self._write()
            after = found[-1].stream_id

    async def _rewind(self) -> dict[str, StateChange]:
        """Put services' users back to where they were at `_read`; give what moves them on.

        All that happened until they were loaded is found here, for it is asked for later.
        """
        moved: dict[str, StateChange] = {}
        seen: set[tuple[str, str]] = set()
        after = self._read.floor
        while True:
            found = await self._database.read(storage.newer_members, after, PAGE)
            for one in found:
                user_id = one.state_key or ""
                if self._read.covers(one.writer, one.stream_id):
                    continue
                if not self._interest.owners(user_id):
                    continue
                before, now = await self._past.memberships(EventID(one.event_id))
                moved[one.event_id] = (one.type, user_id, one.event_id, now)
                if (one.room_id, user_id) not in seen:
                    seen.add((one.room_id, user_id))
                    self._interest.changed(one.room_id, ((one.type, user_id, None, before),))
            if len(found) < PAGE:
                return moved
            after = found[-1].stream_id

    async def _catch_up_rest(self, outgoing: Outgoing, reached: dict[str, int]) -> None:
        """Find the receipts and device lists that a service has not got yet."""
        stored = await self._database.read(storage.positions, outgoing.service.id)
        for name, at in reached.items():
            outgoing.reached[name] = max(at, int(stored.get(name, "0")))
        registration = outgoing.service.registration
        if registration.receives_ephemeral and storage.RECEIPTS in stored:
            await self._catch_up_receipts(outgoing, int(stored[storage.RECEIPTS]))
        if registration.receives_encryption and storage.DEVICE_LISTS in stored:
            await self._catch_up_device_lists(outgoing, int(stored[storage.DEVICE_LISTS]))
        new = [(name, str(at)) for name, at in reached.items() if name not in stored]
        await self._database.write(storage.set_positions, outgoing.service.id, new)

    async def _catch_up_receipts(self, outgoing: Outgoing, after: int) -> None:
        service = outgoing.service
        while after < outgoing.reached[storage.RECEIPTS]:
            found = await self._database.read(storage.moved_receipts, after, PAGE)
            for one in found:
                is_shown = one.receipt_type == "m.read" or service.owns_user(one.user_id)
                if is_shown and service in self._interest.in_room(one.room_id):
                    key = (one.room_id, one.receipt_type, one.user_id, one.thread_id)
                    outgoing.add(outgoing.receipts, key, ReceiptNote(one.event_id, one.ts))
            if len(found) < PAGE:
                return
            after = found[-1].stream_id

    async def _catch_up_device_lists(self, outgoing: Outgoing, after: int) -> None:
        users: dict[str, None] = {}
        while after < outgoing.reached[storage.DEVICE_LISTS]:
            found = await self._database.read(storage.changed_devices, after, PAGE)
            users.update((user_id, None) for _, user_id in found)
            if len(found) < PAGE:
                break
            after = found[-1][0]
        service = outgoing.service
        for user_id in users:
            rooms = await self._rooms_of(user_id)
            if service.owns_user(user_id) or service in self._interest.in_rooms(rooms):
                outgoing.add_device_list(user_id, is_shared=True)
