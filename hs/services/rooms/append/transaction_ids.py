"""Transaction IDs in memory: a device's recent requests, read once and then kept up to date.

Read and changed only under the lock of the room that a key's scope names, but for loading.
Of a device's older requests only a hash is kept: enough to know when to ask the database.
"""

from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

import attrs

from hs.core.ids import EventID, RoomID
from hs.services.rooms.append.drafts import Appended, TxnKey
from hs.services.rooms.append.pending_events import Placed
from hs.storage.database import Database, Tx
from hs.storage.rooms import transaction_ids
from hs.storage.rooms.transaction_ids import RequestRow

MAX_KEYS: Final = 1000  # per device
MAX_OLDER: Final = 100_000  # per device and day; what is beyond is taken for new
MAX_DEVICES: Final = 10_000

_Device = tuple[str, str]
_Request = tuple[str, str]


@attrs.define(eq=False)
class DeviceKeys:
    """What one device's recent requests produced, or are about to, the oldest first."""

    _done: dict[_Request, Appended | Placed]
    _older: set[int] = attrs.Factory(set)
    # Requests whose commit failed: the database may know better.
    _uncertain: set[_Request] = attrs.Factory(set)

    def is_uncertain(self, key: TxnKey) -> bool:
        """Tell whether only the database knows what became of a request."""
        request = (key.scope, key.txn_id)
        if self._uncertain and request in self._uncertain:
            return True
        return bool(self._older) and request not in self._done and hash(request) in self._older

    def find(self, key: TxnKey) -> Appended | Placed | None:
        """Give what a request produced, or the event being committed for it."""
        return self._done.get((key.scope, key.txn_id))

    def begin(self, key: TxnKey, placed: Placed) -> None:
        """Note that an event is being committed for a request."""
        self._done[(key.scope, key.txn_id)] = placed
        if len(self._done) > MAX_KEYS:
            oldest = next(iter(self._done))
            if not isinstance(self._done[oldest], Placed):
                del self._done[oldest]
                if len(self._older) < MAX_OLDER:
                    self._older.add(hash(oldest))

    def finish(self, key: TxnKey, appended: Appended) -> None:
        """Note that the event is on disk."""
        self._done[(key.scope, key.txn_id)] = appended

    def lose(self, key: TxnKey) -> None:
        """Note that the event's commit failed."""
        self._done.pop((key.scope, key.txn_id), None)
        self._uncertain.add((key.scope, key.txn_id))

    def learn(self, key: TxnKey, done: Appended | None) -> None:
        """Take over what the database knows of a request that was uncertain."""
        request = (key.scope, key.txn_id)
        self._uncertain.discard(request)
        self._older.discard(hash(request))
        if done is not None:
            self._done.setdefault(request, done)


@attrs.define(eq=False)
class TxnMemory:
    """The devices that sent of late."""

    _database: Database
    _recent: OrderedDict[_Device, DeviceKeys] = attrs.Factory(OrderedDict)
    # A device that falls out of `_recent` while a batch of it is under way must be found again.
    _alive: WeakValueDictionary[_Device, DeviceKeys] = attrs.Factory(WeakValueDictionary)

    def of_nowait(self, key: TxnKey) -> DeviceKeys | None:
        """Give a device's keys if they are in memory."""
        device = (key.user_id, key.device_id)
        keys = self._alive.get(device)
        if keys is not None:
            self._recent[device] = keys
            self._recent.move_to_end(device)
        return keys

    async def of(self, key: TxnKey) -> DeviceKeys:
        """Give a device's keys, reading them if need be."""
        keys = self.of_nowait(key)
        if keys is None:
            keys = await self._load(key)
        if keys.is_uncertain(key):
            found = await self._database.read(transaction_ids.find, *attrs.astuple(key))
            keys.learn(key, None if found is None else _as_appended(found))
        return keys

    async def _load(self, key: TxnKey) -> DeviceKeys:
        rows, older = await self._database.read(_read, key.user_id, key.device_id)
        # Another request of the device may have read them meanwhile.
        keys = self.of_nowait(key)
        if keys is None:
            done: dict[_Request, Appended | Placed] = {
                (row.scope, row.txn_id): _as_appended(row) for row in reversed(rows)
            }
            keys = DeviceKeys(done, {hash(request) for request in older})
            device = (key.user_id, key.device_id)
            self._alive[device] = self._recent[device] = keys
            if len(self._recent) > MAX_DEVICES:
                self._recent.popitem(last=False)
        return keys


async def _read(
    tx: Tx, user_id: str, device_id: str
) -> tuple[list[RequestRow], list[tuple[str, str]]]:
    rows = await transaction_ids.recent(tx, user_id, device_id, MAX_KEYS)
    if len(rows) < MAX_KEYS:
        return rows, []
    return rows, await transaction_ids.older(tx, user_id, device_id, MAX_KEYS, MAX_OLDER)


def _as_appended(row: RequestRow) -> Appended:
    return Appended(EventID(row.event_id), row.stream_id, RoomID(row.room_id), existed=True)
