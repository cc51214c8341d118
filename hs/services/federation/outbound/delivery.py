"""The delivery to one destination: one transaction at a time, in order.

A transaction that failed is sent again with the same content and ID, at the intervals of other
requests (`RetryIntervals`), or when a request of the destination arrives. A destination that fails
for KEEP_S, or is not tried for as long, falls behind: its row is stored, its queue is dropped, and
when it responds again it is sent the latest event of each room that it shares, the events that
removed its users from other rooms, and the latest change of each user's devices. New events wait in
its queue while it catches up, so it misses nothing.

The row of a destination that has caught up is deleted when the stored position of the sender is
below all that waits for it: a restart before that begins to catch up again.
"""

import logging
from collections.abc import Sequence
from itertools import islice
from typing import Final

import attrs
import trio

from hs.core.errors import RemoteFault
from hs.core.ids import EventID, ServerName, UserID, server_of
from hs.services.federation.outbound.destination import (
    Behind,
    Destination,
    Transaction,
)
from hs.services.federation.outbound.destinations import Destinations
from hs.services.federation.outbound.device_edus import DeviceEdus
from hs.services.federation.outbound.edus import joined_edus
from hs.services.federation.outbound.outgoing import (
    MAX_EDU_BYTES,
    MAX_EDUS,
    MAX_PDUS,
    OutgoingPdu,
    TransactionEncoder,
)
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.retry_intervals import RetryIntervals
from hs.storage.database import Database
from hs.storage.federation import outbound as storage
from hs.storage.federation import outgoing_to_device

KEEP_S: Final = 60.0
"""How long a failing destination keeps its queue."""

TRIED_AT_ONCE: Final = 100
"""Destinations that are behind and are tried at the same time."""

CHANGES_AT_ONCE: Final = 40  # users; each has up to two EDUs

_FAULTS_OF_CONTENT: Final = frozenset((400, 413))

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class DeliveryCounts:
    """The numbers of transactions, PDUs and EDUs that were accepted, and of failed requests."""

    transactions: int = 0
    pdus: int = 0
    edus: int = 0
    failures: int = 0


@attrs.frozen(eq=False, kw_only=True)
class DestinationDelivery:
    """Sends to one destination at a time; each task that uses it serves another destination."""

    database: Database
    client: FederationClient
    encoder: TransactionEncoder
    destinations: Destinations
    devices: DeviceEdus
    intervals: RetryIntervals
    counts: DeliveryCounts = attrs.Factory(DeliveryCounts)
    _slots: trio.CapacityLimiter = attrs.Factory(lambda: trio.CapacityLimiter(TRIED_AT_ONCE))

    async def run(self, destination: Destination) -> None:
        """Send everything queued for a destination, or until a request fails."""
        while True:
            if destination.behind is not None:
                async with self._slots:
                    await self._catch_up(destination, destination.behind)
                if destination.retry_s > trio.current_time():
                    return
                continue
            transaction = destination.sending or await self._compose(destination)
            if transaction is not None and not await self._send(destination, transaction):
                return
            # PDUs and EDUs that were queued during the last await need another round.
            if not self._has_work(destination):
                return

    def _has_work(self, destination: Destination) -> bool:
        return bool(
            destination.behind or destination.pdus or destination.edus or destination.has_messages
        )

    # Transactions

    async def _compose(self, destination: Destination) -> Transaction | None:
        messages: list[tuple[int, bytes]] = []
        if destination.has_messages:
            destination.has_messages = False
            messages = await self.database.read(
                outgoing_to_device.list_of_destination, destination.server, MAX_EDUS
            )
            taken = _within_bytes(messages)
            destination.has_messages |= len(messages) == MAX_EDUS or taken < len(messages)
            del messages[taken:]
        pdus = tuple(islice(destination.pdus, MAX_PDUS))
        edus = [edu for _, edu in messages]
        entries = tuple(islice(destination.edus.items(), MAX_EDUS - len(edus)))
        if entries:
            edus += joined_edus([edu for _, edu in entries])
        if not pdus and not edus:
            return None
        encoded = self.encoder.encode([pdu.pdu for pdu in pdus], edus)
        message_ids = tuple(number for number, _ in messages)
        destination.sending = Transaction(encoded, pdus, entries, message_ids)
        return destination.sending

    async def _send(self, destination: Destination, transaction: Transaction) -> bool:
        """Send a transaction; return False if it has to be sent again."""
        if not await self._request(destination, transaction):
            return False
        if transaction.message_ids:
            await self.database.write(outgoing_to_device.delete, list(transaction.message_ids))
        destination.accept(transaction)
        return True

    async def _request(self, destination: Destination, transaction: Transaction) -> bool:
        encoded = transaction.encoded
        try:
            # The pauses of a destination are its own: other requests may be sent in between.
            await self.client.request(
                destination.server, "PUT", encoded.uri, encoded.body, ignores_backoff=True
            )
        except RemoteFault as fault:
            if fault.error is None or fault.error.status not in _FAULTS_OF_CONTENT:
                await self._note_failure(destination, fault)
                return False
            log.warning("dropping a transaction that %s rejected: %s", destination.server, fault)
        counts = self.counts
        counts.transactions += 1
        counts.pdus += len(transaction.pdus)
        counts.edus += len(transaction.edus) + len(transaction.message_ids)
        destination.failing_since_s = None
        destination.failures = 0
        return True

    async def _note_failure(self, destination: Destination, fault: RemoteFault) -> None:
        self.counts.failures += 1
        now_s = trio.current_time()
        if destination.failing_since_s is None:
            destination.failing_since_s = now_s
        destination.failures += 1
        pause_s = self.intervals.after_s(destination.failures)
        is_behind = destination.behind is not None
        if is_behind or max(now_s - destination.failing_since_s, pause_s) >= KEEP_S:
            behind = self.destinations.fall_behind(destination)
            if not is_behind:
                log.warning("%s falls behind until it responds: %s", destination.server, fault)
            await self.store_behind(destination, behind)
        self.destinations.retry_in(destination, max(pause_s, fault.retry_after_s or 0.0))

    # Catching up

    async def store_behind(self, destination: Destination, behind: Behind) -> None:
        """Store how far a destination is behind, unless that is done."""
        while not behind.is_stored:
            behind.is_stored = True
            try:
                await self.database.write(storage.set_behind, [destination.record(behind)])
            except BaseException:
                behind.is_stored = False
                raise
            destination.has_row = True

    async def delete_rows(self, destinations: Sequence[Destination], events: int) -> None:
        """Delete the rows of destinations that have caught up, and have all events up to one."""
        for destination in destinations:
            destination.has_row = False
        servers = [destination.server for destination in destinations]
        try:
            await self.database.write(storage.delete_behind, servers, events)
        finally:
            for destination in destinations:
                if destination.behind is not None:
                    # It has fallen behind again, and its new row may be the one deleted.
                    destination.behind.is_stored = False
                self.destinations.forget_idle(destination)

    async def _catch_up(self, destination: Destination, behind: Behind) -> None:
        await self.store_behind(destination, behind)
        behind.is_catching_up = True
        while await self._send_missed_events(destination, behind):
            pass
        while await self._send_missed_devices(destination, behind):
            pass
        if behind.is_catching_up:
            # Its queue has all that is still missing: no await since nothing was found.
            destination.behind = None

    async def _send_missed_events(self, destination: Destination, behind: Behind) -> bool:
        """Send a page of events; return whether there may be more."""
        if not behind.is_catching_up:
            return False
        server, after = destination.server, behind.events_after
        missed = await self.database.read(storage.missed_events, server, after, MAX_PDUS)
        if not missed:
            return False
        pdus = await self._load(server, dict(missed))
        last_id = missed[-1][0]
        if pdus and not await self._request(destination, self._page(pdus)):
            return False
        if behind.is_at(after, behind.devices_after):
            destination.forget_caught_up([pdu.event_id for pdu in pdus], 0)
            behind.events_after, behind.is_stored = last_id, False
            await self.store_behind(destination, behind)
        return behind.is_catching_up

    async def _send_missed_devices(self, destination: Destination, behind: Behind) -> bool:
        if not behind.is_catching_up:
            return False
        server, after = destination.server, behind.devices_after
        # Changes after this position may be committed later than those that are found now.
        settled = self.destinations.delivered.devices
        missed = await self.database.read(
            storage.missed_device_changes, server, after, CHANGES_AT_ONCE
        )
        if not missed:
            return False
        edus: list[bytes] = []
        for change in missed:
            edus += await self.devices.missed(change)
        page = Transaction(self.encoder.encode((), edus), ())
        if edus and not await self._request(destination, page):
            return False
        if behind.is_at(behind.events_after, after):
            behind.devices_after, behind.is_stored = missed[-1].last_id, False
            destination.forget_caught_up((), min(behind.devices_after, settled))
            await self.store_behind(destination, behind)
        return behind.is_catching_up

    async def _load(self, server: ServerName, missed: dict[int, bool]) -> list[OutgoingPdu]:
        records = await self.database.read(storage.find_events, list(missed))
        own_name = self.client.server_name
        return [
            OutgoingPdu(record.stream_id, EventID(record.event_id), record.pdu)
            for record in records
            # The event by which a server left may be one of that server, or of a third.
            if (missed[record.stream_id] or server_of(UserID(record.sender)) == own_name)
            and server_of(UserID(record.sender)) != server
        ]

    def _page(self, pdus: list[OutgoingPdu]) -> Transaction:
        return Transaction(self.encoder.encode([pdu.pdu for pdu in pdus], ()), tuple(pdus))


def _within_bytes(messages: list[tuple[int, bytes]]) -> int:
    """Return how many messages fit into a transaction, at least one."""
    size = 0
    for number, (_, edu) in enumerate(messages):
        size += len(edu)
        if number and size > MAX_EDU_BYTES:
            return number
    return len(messages)
