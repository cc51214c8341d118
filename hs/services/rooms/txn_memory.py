"""Transaction IDs in memory: a device's recent requests, read once and then kept up to date.

Read and changed only under the lock of the room that a key's scope names, but for loading.
A device's older requests are forgotten: a retry comes within minutes, not thousands of sends.
"""

from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

import attrs

from hs.core.ids import EventID, RoomID
from hs.services.rooms.drafts import Appended, TxnKey
from hs.services.rooms.placed import Placed
from hs.storage import txns
from hs.storage.database import Database

MAX_KEYS: Final = 1000  # per device
MAX_DEVICES: Final = 10_000

_Device = tuple[str, str]
_Request = tuple[str, str]


@attrs.define(eq=False)
class DeviceKeys:
    """What one device's recent requests produced, or are about to, the oldest first."""

    _done: dict[_Request, Appended | Placed]
    # Requests whose commit failed: the database may know better.
    _uncertain: set[_Request] = attrs.Factory(set)

    def is_uncertain(self, key: TxnKey) -> bool:
        """Tell whether only the database knows what became of a request."""
        return bool(self._uncertain) and (key.scope, key.txn_id) in self._uncertain

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

    def finish(self, key: TxnKey, appended: Appended) -> None:
        """Note that the event is on disk."""
        self._done[(key.scope, key.txn_id)] = appended

    def lose(self, key: TxnKey) -> None:
        """Note that the event's commit failed."""
        self._done.pop((key.scope, key.txn_id), None)
        self._uncertain.add((key.scope, key.txn_id))

    def learn(self, done: dict[_Request, Appended | Placed]) -> None:
        """Take over what the database knows; nothing is uncertain any more."""
        self._done = {**done, **self._done}
        self._uncertain.clear()


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
        if keys is not None and not keys.is_uncertain(key):
            return keys
        rows = await self._database.read(txns.recent, key.user_id, key.device_id, MAX_KEYS)
        # Another request of the device may have read them meanwhile.
        keys = self.of_nowait(key)
        if keys is None:
            keys = DeviceKeys(_as_keys(rows))
            device = (key.user_id, key.device_id)
            self._alive[device] = self._recent[device] = keys
            if len(self._recent) > MAX_DEVICES:
                self._recent.popitem(last=False)
        elif keys.is_uncertain(key):
            keys.learn(_as_keys(rows))
        return keys


def _as_keys(rows: list[tuple[str, str, str, int, str]]) -> dict[_Request, Appended | Placed]:
    return {
        (scope, txn_id): Appended(EventID(event_id), stream_id, RoomID(room_id), existed=True)
        for scope, txn_id, event_id, stream_id, room_id in reversed(rows)
    }
