"""Reads for application services what was stored before a reading of their duty began.

The rows that arrive after the positions of `ReadingStart` are in the duty's queue, and are not read
here. So who is in which room is known as of the very place where the queue begins.
"""

from collections.abc import Iterator
from typing import Final

import attrs

from hs.core.ids import EventID
from hs.core.positions import VectorPosition
from hs.core.streams import DEVICE_LISTS, EVENTS, RECEIPTS, StateChange
from hs.repl.feed import Feed
from hs.services.appservices.ephemeral_queue import OutgoingQueue, ReceiptUpdate
from hs.services.appservices.event_interest import EventInterest
from hs.services.appservices.previous_memberships import PreviousMembershipReader
from hs.services.appservices.row_selection import (
    EncryptionSelection,
    EventSelection,
    Outgoings,
    RoomsOfAnyUser,
    is_shown,
)
from hs.services.appservices.waiting_events import WaitingEvents
from hs.storage.appservices import transactions as storage
from hs.storage.appservices.transactions import EventOfInterest
from hs.storage.database import Database
from hs.storage.devices import to_device

PAGE: Final = 500


@attrs.frozen
class ReadingStart:
    """The positions of the feed when a reading began to queue rows."""

    events: VectorPosition
    receipts: VectorPosition
    device_lists: VectorPosition

    @classmethod
    def of(cls, feed: Feed) -> "ReadingStart":
        """Return the present positions; call it without an await after opening the queue."""
        return cls(
            feed.position(EVENTS),
            feed.position(RECEIPTS),
            feed.position(DEVICE_LISTS),
        )


@attrs.frozen(eq=False)
class EventCatchUp:
    """Selects events that were stored since the last reading, as if each had just happened."""

    _database: Database
    _interest: EventInterest
    _past: PreviousMembershipReader
    _selection: EventSelection
    _waiting: WaitingEvents

    async def run(self, start: ReadingStart) -> None:
        """Read everything up to the start; in the very first run there is nothing."""
        await self._waiting.begin(start.events)
        moved = await self._rewind()
        await self._select_stored(start.events, moved)
        await self._selection.store()

    async def _select_stored(self, start: VectorPosition, moved: dict[str, StateChange]) -> None:
        waiting = self._waiting
        after = waiting.position.floor
        while not waiting.position.covers_all(start):
            events = await self._database.read(storage.list_events_after, after, PAGE)
            for event in events:
                is_new = not waiting.position.covers(event.writer, event.stream_id)
                if is_new and start.covers(event.writer, event.stream_id):
                    self._select(event, moved.get(event.event_id))
            if len(events) < PAGE:
                waiting.position = waiting.position.merge(start)
                return
            await self._selection.store()
            after = events[-1].stream_id

    def _select(self, event: EventOfInterest, change: StateChange | None) -> None:
        waiting = self._waiting
        waiting.position = waiting.position.advance(event.writer, event.stream_id)
        self._selection.select(
            event.room_id, event.event_id, event.type, event.sender, event.state_key
        )
        if change is not None:
            self._interest.changed(event.room_id, (change,))

    async def _rewind(self) -> dict[str, StateChange]:
        """Set the services' users back to where they were at the stored position.

        Return the changes that bring them to where they are, by event. All that happened before
        the interest was loaded is among them, for it is read later.
        """
        moved: dict[str, StateChange] = {}
        seen: set[tuple[str, str]] = set()
        after = self._waiting.position.floor
        while True:
            events = await self._database.read(storage.list_members_after, after, PAGE)
            for event, user_id in self._unread_members(events):
                before, now = await self._past.memberships(EventID(event.event_id))
                moved[event.event_id] = (event.type, user_id, event.event_id, now)
                if (event.room_id, user_id) not in seen:
                    seen.add((event.room_id, user_id))
                    self._interest.changed(event.room_id, ((event.type, user_id, None, before),))
            if len(events) < PAGE:
                return moved
            after = events[-1].stream_id

    def _unread_members(
        self, events: list[EventOfInterest]
    ) -> Iterator[tuple[EventOfInterest, str]]:
        for event in events:
            user_id = event.state_key or ""
            is_new = not self._waiting.position.covers(event.writer, event.stream_id)
            if is_new and self._interest.owners(user_id):
                yield event, user_id


@attrs.frozen(eq=False)
class EphemeralCatchUp:
    """Finds receipts, device lists, messages and keys that services have not got yet."""

    _database: Database
    _interest: EventInterest
    _outgoings: Outgoings
    _rooms: RoomsOfAnyUser
    _selection: EncryptionSelection

    async def run(self, start: ReadingStart) -> None:
        """Read everything up to the start."""
        for outgoing in self._outgoings.values():
            await self._catch_up(outgoing, start)
        if any(service.registration.receives_encryption for service in self._outgoings):
            for device in await self._database.read(to_device.devices_with_messages):
                await self._selection.add_device(*device, has_messages=True)
            for device in await self._database.read(storage.list_devices_with_keys):
                await self._selection.add_device(*device, has_messages=False)

    async def _catch_up(self, outgoing: OutgoingQueue, start: ReadingStart) -> None:
        stored = await self._database.read(storage.positions, outgoing.service.id)
        # Rows of faster writers of a stream are added now and again after a restart.
        begin = {
            storage.RECEIPTS: start.receipts.floor,
            storage.DEVICE_LISTS: start.device_lists.floor,
        }
        # An earlier reading of this run may have added more than was sent up to now.
        added = {
            name: max(int(position), outgoing.reached.get(name, 0))
            for name, position in stored.items()
        }
        registration = outgoing.service.registration
        if registration.receives_ephemeral and storage.RECEIPTS in stored:
            after, upto = added[storage.RECEIPTS], start.receipts.most()
            await self._catch_up_receipts(outgoing, after, upto)
        if registration.receives_encryption and storage.DEVICE_LISTS in stored:
            after, upto = added[storage.DEVICE_LISTS], start.device_lists.most()
            await self._catch_up_device_lists(outgoing, after, upto)
        new = [(name, str(position)) for name, position in begin.items() if name not in stored]
        await self._database.write(storage.set_positions, outgoing.service.id, new)
        # A transaction stores these positions as sent, so they move when everything was added.
        for name, position in begin.items():
            outgoing.reached[name] = max(position, added.get(name, 0))

    async def _catch_up_receipts(self, outgoing: OutgoingQueue, after: int, upto: int) -> None:
        service = outgoing.service
        while after < upto:
            moved = await self._database.read(storage.list_receipts_after, after, PAGE)
            for receipt in moved:
                if not is_shown(receipt.receipt_type, receipt.user_id, service):
                    continue
                if service in self._interest.in_room(receipt.room_id):
                    key = receipt.room_id, receipt.receipt_type, receipt.user_id, receipt.thread_id
                    note = ReceiptUpdate(receipt.event_id, receipt.ts)
                    outgoing.add(outgoing.receipts, key, note)
            if len(moved) < PAGE:
                return
            after = moved[-1].stream_id

    async def _catch_up_device_lists(self, outgoing: OutgoingQueue, after: int, upto: int) -> None:
        users: dict[str, None] = {}
        while after < upto:
            changed = await self._database.read(storage.list_device_changes_after, after, PAGE)
            users.update((user_id, None) for _, user_id in changed)
            if len(changed) < PAGE:
                break
            after = changed[-1][0]
        service = outgoing.service
        for user_id in users:
            rooms = await self._rooms.of(user_id)
            if service.owns_user(user_id) or service in self._interest.in_rooms(rooms):
                outgoing.add_device_list(user_id, is_shared=True)
