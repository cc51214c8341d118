"""Transaction IDs of each device's recent requests, in the memory of the room's owner.

Rules:

- For a loaded device, a request that is in neither `_results`, `_older` nor `_uncertain` is new.
  The latest MAX_RECENT requests are held with their results. Of older ones only a hash is held;
  a match means that the database must be asked, so a hash collision costs one query and nothing
  else.
- A request is recorded when its event is submitted, in the same step and under the room's lock.
  A repetition that arrives before the commit finds the pending event and waits for the same one.
- A failed commit makes the request uncertain: only the database knows whether it was written.
  It is asked before the room is locked again.
- `find`, `begin` and `needs_lookup` run under the lock of the room that the scope names. Loading
  does not: if two requests of a device load at once, the first result stays, as it may already
  have been changed.
- Rooms that this process gets from another one bring requests that are not in memory. From then on
  what is loaded is partial: a request that is not found is looked for in the database, and the next
  one of the device loads all of them again, before its room is locked.
- There is one DeviceTransactions object per device as long as anybody uses it. The weak dictionary
  finds it again if it fell out of the LRU order while a batch of the device is pending.
"""

from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

import attrs

from hs.core.ids import EventID, RoomID
from hs.services.rooms.append.drafts import AppendedEvent, TransactionKey
from hs.services.rooms.append.pending_events import PendingEvent
from hs.storage.database import Database, Tx
from hs.storage.rooms import transaction_ids
from hs.storage.rooms.transaction_ids import TransactionRecord, stored_scope

MAX_RECENT: Final = 1000  # per device
MAX_OLDER: Final = 100_000  # per device and day; older requests are treated as new
MAX_DEVICES: Final = 10_000

_Device = tuple[str, str]
_Request = tuple[str, str]
"""(stored scope, transaction ID)."""


@attrs.define(eq=False)
class DeviceTransactions:
    """The results of one device's recent requests, the oldest first.

    A request whose event is not committed yet maps to its pending event.
    """

    _results: dict[_Request, AppendedEvent | PendingEvent]
    _older: set[int] = attrs.Factory(set)
    # Requests whose commit failed: only the database knows whether they were written.
    _uncertain: set[_Request] = attrs.Factory(set)
    is_partial: bool = False

    def complete(
        self, results: dict[_Request, AppendedEvent | PendingEvent], older: set[int]
    ) -> None:
        """Add what the database knows to what is in memory."""
        self._results = {**results, **self._results}
        self._older |= older

    def needs_lookup(self, key: TransactionKey) -> bool:
        """Return whether only the database knows the result of a request."""
        request = _request_of(key)
        if self._uncertain and request in self._uncertain:
            return True
        if self.is_partial and request not in self._results:
            return True
        return bool(self._older) and request not in self._results and hash(request) in self._older

    def find(self, key: TransactionKey) -> AppendedEvent | PendingEvent | None:
        """Return the result of a request, or its pending event; None for a new request."""
        return self._results.get(_request_of(key))

    def begin(self, key: TransactionKey, pending: PendingEvent) -> None:
        """Record the pending event of a request."""
        self._results[_request_of(key)] = pending
        if len(self._results) > MAX_RECENT:
            oldest = next(iter(self._results))
            if not isinstance(self._results[oldest], PendingEvent):
                del self._results[oldest]
                if len(self._older) < MAX_OLDER:
                    self._older.add(hash(oldest))

    def finish(self, key: TransactionKey, appended: AppendedEvent) -> None:
        """Record that the event is committed."""
        self._results[_request_of(key)] = appended

    def fail(self, key: TransactionKey) -> None:
        """Record that the event's commit failed."""
        self._results.pop(_request_of(key), None)
        self._uncertain.add(_request_of(key))

    def record_lookup(self, key: TransactionKey, result: AppendedEvent | None) -> None:
        """Record what the database knows of a request; None: it is new."""
        request = _request_of(key)
        self._uncertain.discard(request)
        self._older.discard(hash(request))
        if result is not None:
            self._results.setdefault(request, result)


@attrs.define(eq=False)
class TransactionIds:
    """The transaction IDs of the devices that sent events recently."""

    _database: Database
    _recent: OrderedDict[_Device, DeviceTransactions] = attrs.Factory(OrderedDict)
    # Finds devices that fell out of `_recent` while a batch of theirs is pending.
    _in_use: WeakValueDictionary[_Device, DeviceTransactions] = attrs.Factory(WeakValueDictionary)
    _gains: int = 0

    def note_gain(self) -> None:
        """Note that this process owns rooms that another one has written."""
        self._gains += 1
        for transactions in self._in_use.values():
            transactions.is_partial = True

    def get_nowait(self, key: TransactionKey) -> DeviceTransactions | None:
        """Return a device's transactions if they are in memory."""
        device = (key.user_id, key.device_id)
        transactions = self._in_use.get(device)
        if transactions is not None:
            self._recent[device] = transactions
            self._recent.move_to_end(device)
        return transactions

    async def load(self, key: TransactionKey) -> DeviceTransactions:
        """Return a device's transactions, such that the result of `key`'s request is known."""
        transactions = self.get_nowait(key)
        if transactions is None or transactions.is_partial:
            transactions = await self._load(key)
        if transactions.needs_lookup(key):
            row = await self._database.read(transaction_ids.find, *attrs.astuple(key))
            transactions.record_lookup(key, None if row is None else _as_appended(row))
        return transactions

    async def _load(self, key: TransactionKey) -> DeviceTransactions:
        gains = self._gains
        rows, older = await self._database.read(_read, key.user_id, key.device_id)
        results: dict[_Request, AppendedEvent | PendingEvent] = {
            (row.scope, row.txn_id): _as_appended(row) for row in reversed(rows)
        }
        hashes = {hash(request) for request in older}
        # Another request of the device may have loaded them in the meantime.
        transactions = self.get_nowait(key)
        if transactions is None:
            transactions = DeviceTransactions(results, hashes)
            device = (key.user_id, key.device_id)
            self._in_use[device] = self._recent[device] = transactions
            if len(self._recent) > MAX_DEVICES:
                self._recent.popitem(last=False)
        elif transactions.is_partial:
            transactions.complete(results, hashes)
        else:
            return transactions
        transactions.is_partial = gains != self._gains
        return transactions


def _request_of(key: TransactionKey) -> _Request:
    return stored_scope(key.scope), key.txn_id


async def _read(
    tx: Tx, user_id: str, device_id: str
) -> tuple[list[TransactionRecord], list[tuple[str, str]]]:
    rows = await transaction_ids.list_recent(tx, user_id, device_id, MAX_RECENT)
    if len(rows) < MAX_RECENT:
        return rows, []
    return rows, await transaction_ids.list_older(tx, user_id, device_id, MAX_RECENT, MAX_OLDER)


def _as_appended(row: TransactionRecord) -> AppendedEvent:
    return AppendedEvent(EventID(row.event_id), row.stream_id, RoomID(row.room_id), existed=True)
