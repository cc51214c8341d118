"""Receipts and changes of device lists for other servers, from table streams: none is lost.

Receipts in a large room would cause a transaction to each of its servers for each reader. So a room
causes a limited number of transactions a second; until then receipts wait for the next transaction.
"""

from collections.abc import Iterator
from typing import Final

import attrs
import trio

from hs.core.ids import RoomID, ServerName, UserID
from hs.core.streams import PRIVATE_RECEIPT, DeviceListRow, ReceiptRow
from hs.repl.feed import Batch, Feed
from hs.services.federation.outbound.destination import QueuedEdu
from hs.services.federation.outbound.destinations import Destinations
from hs.services.federation.outbound.device_edus import DeviceEdus
from hs.services.federation.outbound.edus import receipt_part
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.room_servers import RoomServers, Servers
from hs.storage.database import Database
from hs.storage.federation import outbound as storage

PAGE: Final = 500


@attrs.frozen(eq=False)
class MovedReceipt:
    """A receipt of a local user, from its row in the stream.

    After it, no row up to `settled` is missing, of any writer of the stream.
    """

    position: int
    settled: int
    row: ReceiptRow


@attrs.frozen(eq=False)
class ChangedDevice:
    """A change of a local user's devices or keys; `settled` is as in `MovedReceipt`."""

    position: int
    settled: int
    user_id: UserID
    device_id: str | None


@attrs.frozen(eq=False)
class ServersOfUsers:
    """The other servers that share a room with a local user."""

    _memberships: Memberships
    _rooms: RoomServers

    async def of(
        self, user_id: UserID, excluded_rooms: frozenset[RoomID] = frozenset()
    ) -> frozenset[ServerName]:
        """Return the servers that share a room with a user."""
        rooms = await self._memberships.joined_rooms(user_id)
        servers = await self._rooms.servers_of_rooms([r for r in rooms if r not in excluded_rooms])
        return frozenset().union(*servers.values())


@attrs.define(eq=False)
class _WaitingRoom:
    """A room whose receipts wait until `due_s`, for these servers."""

    due_s: float
    servers: set[ServerName] = attrs.Factory(set)


@attrs.define(eq=False)
class ReceiptRouting:
    """Queues receipts; a room causes at most `transactions_per_s` transactions."""

    _database: Database
    _feed: Feed
    _rooms: RoomServers
    _destinations: Destinations
    _server_name: ServerName
    _transactions_per_s: int
    _waiting: dict[RoomID, _WaitingRoom] = attrs.Factory(dict)
    _added: trio.Event = attrs.Factory(trio.Event)

    def select(self, batch: Batch[ReceiptRow]) -> Iterator[MovedReceipt]:
        """Select the receipts that other servers may see."""
        suffix, settled = f":{self._server_name}", self._feed.settled(batch)
        for position, row in batch.rows:
            if row.receipt_type != PRIVATE_RECEIPT and row.user_id.endswith(suffix):
                room_id = RoomID(row.room_id)
                if self._rooms.servers_nowait(room_id) != frozenset():
                    yield MovedReceipt(position, settled, row)

    async def route(self, receipt: MovedReceipt) -> None:
        """Queue a receipt."""
        row, room_id = receipt.row, RoomID(receipt.row.room_id)
        servers = await self._rooms.servers_in(room_id)
        if not servers:
            return
        key = ("receipt", row.room_id, row.receipt_type, row.user_id, row.thread_id)
        part = receipt_part(
            row.room_id,
            row.receipt_type,
            row.user_id,
            row.event_id,
            row.thread_id,
            row.ts,
            receipt.position,
        )
        now_s = trio.current_time()
        waiting = self._waiting.get(room_id)
        if waiting is not None and waiting.due_s > now_s:
            self._destinations.add_edu_for_later(servers, key, part)
            waiting.servers.update(servers)
            return
        self._waiting[room_id] = _WaitingRoom(now_s + len(servers) / self._transactions_per_s)
        self._added.set()
        self._destinations.send_edu(servers, key, part)

    async def catch_up(self, after: int, upto: int) -> None:
        """Route the receipts that moved after a position, up to the start of the queue."""
        while after < upto:
            moved = await self._database.read(storage.list_receipts, self._server_name, after, PAGE)
            for record in moved:
                if record.receipt_type != PRIVATE_RECEIPT:
                    row = ReceiptRow(
                        room_id=record.room_id,
                        receipt_type=record.receipt_type,
                        user_id=record.user_id,
                        event_id=record.event_id,
                        thread_id=record.thread_id or None,
                        ts=record.ts,
                    )
                    await self.route(MovedReceipt(record.stream_id, after, row))
            if len(moved) < PAGE:
                return
            after = moved[-1].stream_id

    async def run(self) -> None:
        """Wake destinations whose receipts have waited long enough, until cancelled."""
        while True:
            if not self._waiting:
                self._added = trio.Event()
                await self._added.wait()
            await trio.sleep_until(min(room.due_s for room in self._waiting.values()))
            now_s = trio.current_time()
            for room_id, room in list(self._waiting.items()):
                if room.due_s <= now_s:
                    del self._waiting[room_id]
                    self._destinations.wake(room.servers)


@attrs.frozen(eq=False)
class DeviceRouting:
    """Queues changes of devices and keys."""

    _database: Database
    _feed: Feed
    _sharing: ServersOfUsers
    _destinations: Destinations
    _edus: DeviceEdus
    _server_name: ServerName

    def select(self, batch: Batch[DeviceListRow]) -> Iterator[ChangedDevice]:
        """Select the changes that other users may see."""
        suffix, settled = f":{self._server_name}", self._feed.settled(batch)
        for position, row in batch.rows:
            if not row.signatures and row.user_id.endswith(suffix):
                yield ChangedDevice(position, settled, UserID(row.user_id), row.device_id)

    async def route(self, change: ChangedDevice) -> None:
        """Queue a change."""
        servers: Servers = await self._sharing.of(change.user_id)
        if servers:
            edus = await self._edus.of_change(change.user_id, change.device_id, change.position)
            for number, edu in enumerate(edus):
                key = ("devices", change.position, number)
                queued = QueuedEdu(edu, devices_at=change.position)
                self._destinations.send_edu(servers, key, queued)
        self._destinations.note_delivered_devices(change.settled)

    async def catch_up(self, after: int, upto: int, settled: int) -> None:
        """Route the changes after a position, up to the start of the queue.

        Up to `settled`, no row of any writer is missing at that start.
        """
        while after < upto:
            changes = await self._database.read(
                storage.list_device_changes, self._server_name, after, PAGE
            )
            for record in changes:
                if record.stream_id <= upto:
                    user_id = UserID(record.user_id)
                    complete = min(record.stream_id, settled)
                    await self.route(
                        ChangedDevice(record.stream_id, complete, user_id, record.device_id)
                    )
            if len(changes) < PAGE:
                return
            after = changes[-1].stream_id
