"""One destination: the queue of PDUs and EDUs for it, and how far behind it is.

Rules:

- PDUs and EDUs stay here until the destination has accepted them. So the positions that
  `first_event`, `first_device_change` and `first_receipt` return are never above one that could
  still be lost.
- A destination that is behind has a row in the database, from which it catches up. PDUs and EDUs
  for it are dropped, except while it catches up: then they follow what it has missed.
- A dropped event is always above `events_after`, and a dropped device list change above
  `devices_after`; these are lowered if need be: rows of several writers do not arrive in the order
  of their numbers.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Final

import attrs

from hs.core.ids import EventID, ServerName
from hs.services.federation.outbound.outgoing import OutgoingPdu, TransactionBody
from hs.storage.federation.outbound import BehindRecord

MAX_QUEUED_PDUS: Final = 1000
MAX_QUEUED_EDUS: Final = 2000


@attrs.frozen(eq=False)
class QueuedEdu:
    """An EDU, or a part of one, that waits for a destination.

    `edu` is canonical JSON. `receipt` and `presence` are parts, of which many are sent in one EDU.
    `receipts_at` and `devices_at` are the positions of its row in these streams, or 0.
    """

    edu: bytes = b""
    receipt: tuple[str, str, str, bytes] | None = None  # room, type, user, content
    presence: bytes = b""
    receipts_at: int = 0
    devices_at: int = 0


@attrs.define(eq=False)
class Behind:
    """How far a destination is behind. `is_stored` is False while its row is out of date."""

    since_ms: int
    events_after: int
    devices_after: int
    is_stored: bool = False
    is_catching_up: bool = False

    def is_at(self, events_after: int, devices_after: int) -> bool:
        """Return whether it catches up and its positions are still these."""
        return self.is_catching_up and (self.events_after, self.devices_after) == (
            events_after,
            devices_after,
        )


@attrs.frozen(eq=False)
class Transaction:
    """A transaction that is being sent, until the destination has accepted it."""

    encoded: TransactionBody
    pdus: tuple[OutgoingPdu, ...]
    edus: tuple[tuple[Hashable, QueuedEdu], ...] = ()
    message_ids: tuple[int, ...] = ()


@attrs.define(eq=False)
class Destination:
    """What this server knows of one destination; `failures` are those since the last success."""

    server: ServerName
    pdus: deque[OutgoingPdu] = attrs.Factory(deque)
    edus: dict[Hashable, QueuedEdu] = attrs.Factory(dict)
    has_messages: bool = False
    behind: Behind | None = None
    has_row: bool = False  # it caught up, and its row in the database is to be deleted
    is_running: bool = False
    sending: Transaction | None = None
    retry_s: float = 0.0  # no attempt before this time
    failing_since_s: float | None = None
    failures: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued for it, and nothing is to be remembered."""
        has_queue = self.pdus or self.edus or self.has_messages or self.sending
        return not (has_queue or self.behind or self.has_row)

    def add_pdu(self, pdu: OutgoingPdu) -> bool:
        """Queue a PDU, or have it found when the destination catches up.

        Return False if the queue is too long, so that the destination has to fall behind.
        """
        if self.behind is not None and not self.behind.is_catching_up:
            self._drop((pdu,))
            return True
        self.pdus.append(pdu)
        return len(self.pdus) <= MAX_QUEUED_PDUS

    def add_edu(self, key: Hashable, edu: QueuedEdu) -> bool:
        """Queue an EDU in place of the one with the same key; return as `add_pdu` does."""
        if self.behind is not None and not (self.behind.is_catching_up and edu.devices_at):
            if 0 < edu.devices_at <= self.behind.devices_after:
                self.behind.devices_after, self.behind.is_stored = edu.devices_at - 1, False
            return True
        self.edus.pop(key, None)
        self.edus[key] = edu
        if len(self.edus) > MAX_QUEUED_EDUS:
            oldest = next(iter(self.edus))
            if self.edus[oldest].devices_at:
                return False
            del self.edus[oldest]
        return True

    def fall_behind(self, now_ms: int, events_after: int, devices_after: int) -> Behind:
        """Drop the queue, from now on or again; the positions are the last that were delivered."""
        if self.behind is None:
            self.behind = Behind(
                now_ms,
                min([events_after, *(pdu.stream_id - 1 for pdu in self.pdus)]),
                min([devices_after, *(at - 1 for at in self._devices())]),
            )
        self.behind.is_catching_up = False
        if self.sending is not None and self.sending.message_ids:
            self.has_messages = True  # to-device messages stay in their table
        self.sending = None
        pdus, self.pdus = self.pdus, deque()
        self._drop(pdus)
        self.behind.devices_after = min(
            [self.behind.devices_after, *(at - 1 for at in self._devices())]
        )
        self.edus.clear()
        return self.behind

    def accept(self, transaction: Transaction) -> None:
        """Remove the PDUs and EDUs that the destination has accepted."""
        self.sending = None
        accepted = set(transaction.pdus)
        if accepted:
            while self.pdus and self.pdus[0] in accepted:
                self.pdus.popleft()
        for key, edu in transaction.edus:
            if self.edus.get(key) is edu:
                del self.edus[key]

    def forget_caught_up(self, event_ids: Iterable[EventID], devices_after: int) -> None:
        """Remove PDUs and EDUs that the destination was sent while it caught up."""
        caught_up = set(event_ids)
        self.pdus = deque(pdu for pdu in self.pdus if pdu.event_id not in caught_up)
        for key, edu in list(self.edus.items()):
            if 0 < edu.devices_at <= devices_after:
                del self.edus[key]

    def first_event(self) -> int | None:
        """Return the lowest stream ID of an event that only this queue has."""
        behind = self.behind
        if behind is not None and not behind.is_stored:
            return behind.events_after + 1
        # Catching up finds the events after `events_after`; of another writer, one may be below.
        return min(
            (
                pdu.stream_id
                for pdu in self.pdus
                if behind is None or pdu.stream_id <= behind.events_after
            ),
            default=None,
        )

    def first_device_change(self) -> int | None:
        """Return the lowest position of a device list change that only this queue has."""
        if self.behind is not None:
            return None if self.behind.is_stored else self.behind.devices_after + 1
        return min(self._devices(), default=None)

    def first_receipt(self) -> int | None:
        """Return the lowest position of a receipt that only this queue has."""
        return min((edu.receipts_at for edu in self.edus.values() if edu.receipts_at), default=None)

    def has_caught_up_by(self, event: int, device_change: int) -> bool:
        """Return whether its row can be deleted: a restart at this position finds all it lacks."""
        if not self.has_row or self.behind is not None:
            return False
        first_event, first_change = self.first_event(), self.first_device_change()
        return (first_event is None or first_event > event) and (
            first_change is None or first_change > device_change
        )

    def record(self, behind: Behind) -> BehindRecord:
        """Return the row that says how far the destination is behind."""
        return BehindRecord(self.server, behind.since_ms, behind.events_after, behind.devices_after)

    def _devices(self) -> Iterable[int]:
        return (edu.devices_at for edu in self.edus.values() if edu.devices_at)

    def _drop(self, pdus: Iterable[OutgoingPdu]) -> None:
        assert self.behind is not None
        for pdu in pdus:
            if pdu.stream_id <= self.behind.events_after:
                self.behind.events_after = pdu.stream_id - 1
                self.behind.is_stored = False
