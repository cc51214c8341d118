"""Selects what each application service is to get from the rows of streams, by its interest.

Events go to the table by way of `WaitingEvents`; everything else goes to the `OutgoingQueue` of the
service. A row that interests no service costs a look into a dictionary.
"""

from collections.abc import Collection, Mapping
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import UserID
from hs.core.streams import (
    CacheRow,
    DeviceListRow,
    EventRow,
    PresenceRow,
    ReceiptRow,
    ToDeviceRow,
    TypingRow,
)
from hs.repl.feed import Batch
from hs.services.appservices.alias_namespaces import ALIASES
from hs.services.appservices.appservice_registry import Appservice
from hs.services.appservices.ephemeral_queue import OutgoingQueue, ReceiptKey, ReceiptUpdate
from hs.services.appservices.event_interest import EventInterest
from hs.services.appservices.waiting_events import WaitingEvents
from hs.services.rooms.store.memberships import Memberships
from hs.storage.accounts import users
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from hs.storage.devices import device_lists

_PUBLIC: Final = "m.read"

Outgoings = Mapping[Appservice, OutgoingQueue]


@attrs.frozen(eq=False)
class RoomsOfAnyUser:
    """The rooms of local and remote users."""

    _database: Database
    _local: Memberships

    async def of(self, user_id: str) -> Collection[str]:
        """List the rooms that a user is joined to."""
        if self._local.is_local(user_id):
            return await self._local.joined_rooms(UserID(user_id))
        return await self._database.read(device_lists.joined_rooms, user_id)


def is_shown(receipt_type: str, user_id: str, service: Appservice) -> bool:
    """Return whether a service that is interested in a room gets a user's receipt there."""
    return receipt_type == _PUBLIC or service.owns_user(user_id)


@attrs.frozen(eq=False)
class EventSelection:
    """Selects events, and follows who is where and what rooms are called."""

    _interest: EventInterest
    _outgoings: Outgoings
    _rooms: RoomsOfAnyUser
    _waiting: WaitingEvents

    async def take_events(self, batch: Batch[EventRow]) -> None:
        """Select the events that were not read yet, and follow all changes of membership."""
        waiting = self._waiting
        for stream_id, row in batch.rows:
            if not waiting.position.covers(batch.writer, stream_id):
                waiting.position = waiting.position.advance(batch.writer, stream_id)
                if row.outside or row.is_shown:
                    self.select(row.room_id, row.event_id, row.type, row.sender, row.state_key)
            # An event that was read by catching up may be newer than the members that were loaded.
            if row.type == event_types.MEMBER or row.state_changes is not None:
                await self._follow_members(row)

    def select(
        self, room_id: str, event_id: str, event_type: str, sender: str, state_key: str | None
    ) -> None:
        """Add an event for each service that it is for."""
        for service in self._interest.in_event(room_id, event_type, sender, state_key):
            self._waiting.add(service.id, event_id)

    async def store(self) -> None:
        """Store the selected events and the position, and have the events delivered."""
        with_new_events = await self._waiting.store_if_changed()
        for service, outgoing in self._outgoings.items():
            if service.id in with_new_events:
                outgoing.add_events()

    async def take_caches(self, batch: Batch[CacheRow]) -> None:
        """Follow the aliases of rooms."""
        if batch.reset:
            # Rows were lost, for example while Redis was away.
            await self._interest.load_aliases()
        for _, row in batch.rows:
            if row.cache == ALIASES:
                for room_id in row.keys:
                    await self._interest.load_aliases_of(room_id)

    async def _follow_members(self, row: EventRow) -> None:
        changes = row.changes()
        before = self._interest.in_room(row.room_id)
        sharing = [service for service in before if service.registration.receives_encryption]
        self._interest.changed(row.room_id, changes)
        if sharing:
            for event_type, user_id, _, membership in changes:
                if event_type == event_types.MEMBER:
                    await self._follow_sharing(sharing, user_id, membership)

    async def _follow_sharing(
        self, services: list[Appservice], user_id: str, membership: str | None
    ) -> None:
        """Note whether each service shares a room with the user, and so needs the device list."""
        if membership == event_types.JOIN:
            for service in services:
                self._outgoings[service].add_device_list(user_id, is_shared=True)
        elif membership in (event_types.LEAVE, event_types.BAN):
            still_sharing = self._interest.in_rooms(await self._rooms.of(user_id))
            for service in services:
                if service not in still_sharing:
                    self._outgoings[service].add_device_list(user_id, is_shared=False)


@attrs.frozen(eq=False)
class EphemeralSelection:
    """Selects receipts, typing and presence for the services that receive them."""

    _interest: EventInterest
    _outgoings: Outgoings
    _rooms: RoomsOfAnyUser

    async def take_receipts(self, batch: Batch[ReceiptRow]) -> None:
        """Select receipts."""
        for _, row in batch.rows:
            key = (row.room_id, row.receipt_type, row.user_id, row.thread_id or "")
            self._add_receipt(key, ReceiptUpdate(row.event_id, row.ts))
        _note_position(self._outgoings, storage.RECEIPTS, batch.position)

    def _add_receipt(self, key: ReceiptKey, note: ReceiptUpdate) -> None:
        room_id, receipt_type, user_id, _ = key
        for service in self._interest.in_room(room_id):
            receives = service.registration.receives_ephemeral
            if receives and is_shown(receipt_type, user_id, service):
                outgoing = self._outgoings[service]
                outgoing.add(outgoing.receipts, key, note)

    async def take_typing(self, batch: Batch[TypingRow]) -> None:
        """Select the typing users of rooms."""
        for _, row in batch.rows:
            for service in self._interest.in_room(row.room_id):
                if service.registration.receives_ephemeral:
                    outgoing = self._outgoings[service]
                    outgoing.add(outgoing.typing, row.room_id, row.user_ids)

    async def take_presence(self, batch: Batch[PresenceRow]) -> None:
        """Select presence, of the services' own users and of users they share rooms with."""
        for _, row in batch.rows:
            services = {*self._interest.owners(row.user_id)}
            services |= self._interest.in_rooms(await self._rooms.of(row.user_id))
            for service in services:
                if service.registration.receives_ephemeral:
                    outgoing = self._outgoings[service]
                    outgoing.add(outgoing.presence, row.user_id, row)


@attrs.frozen(eq=False)
class EncryptionSelection:
    """Selects what services with encryption receive: inboxes, counts of keys and device lists."""

    _interest: EventInterest
    _outgoings: Outgoings
    _rooms: RoomsOfAnyUser
    _database: Database

    async def take_to_device(self, batch: Batch[ToDeviceRow]) -> None:
        """Select the devices that have new messages or other counts of keys."""
        for _, row in batch.rows:
            for user_id, device_id in row.devices:
                await self.add_device(user_id, device_id, has_messages=not row.keys)

    async def take_device_lists(self, batch: Batch[DeviceListRow]) -> None:
        """Select the users whose device lists have changed."""
        for _, row in batch.rows:
            if not row.signatures:
                self._add_device_list(row.user_id, await self._rooms.of(row.user_id))
            if row.device_id is not None:
                # One-time keys may have been uploaded with the keys of the device.
                await self.add_device(row.user_id, row.device_id, has_messages=False)
        _note_position(self._outgoings, storage.DEVICE_LISTS, batch.position)

    async def add_device(self, user_id: str, device_id: str, *, has_messages: bool) -> None:
        """Add a device of a service's user, for its messages or for its counts of keys."""
        for service in self._interest.owners(user_id):
            encrypts = service.registration.receives_encryption
            if encrypts and await self._is_of_service(user_id, service):
                outgoing = self._outgoings[service]
                devices = outgoing.inboxes if has_messages else outgoing.counts
                outgoing.add(devices, (user_id, device_id), None)

    async def _is_of_service(self, user_id: str, service: Appservice) -> bool:
        """Return whether a service gets a user's messages, which removes them from the inbox.

        A user whom the service does not have for itself may log in, and then needs the messages.
        """
        if service.reserves_user(user_id):
            return True
        user = await self._database.read(users.find_user, user_id)
        return user is not None and user.appservice_id == service.id

    def _add_device_list(self, user_id: str, room_ids: Collection[str]) -> None:
        for service in {*self._interest.owners(user_id), *self._interest.in_rooms(room_ids)}:
            if service.registration.receives_encryption:
                self._outgoings[service].add_device_list(user_id, is_shared=True)


def _note_position(outgoings: Outgoings, stream: str, position: int) -> None:
    for outgoing in outgoings.values():
        outgoing.reached[stream] = max(position, outgoing.reached.get(stream, 0))
