"""The rooms in the memory of their owner: loaded when needed, locked while changed, bounded.

A room that is in use, or has events on their way to the disk, stays. One whose commit failed is
dropped, and read again by whoever comes next.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs

from hs.core.errors import NotFound
from hs.core.ids import RoomID
from hs.lib.keyed_lock import KeyedLock
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.hot_room import HotRoom, RoomHead
from hs.services.rooms.append.pending_events import Batch, HeadChange, NewRoom, Placed
from hs.services.rooms.append.room_loading import make_room, read_room
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database

MAX_BYTES: Final = 64 * 1024 * 1024


class RoomDropped(Exception):
    """The room's commit failed while the caller waited for something: hold it again."""


def _nothing(batch: Batch) -> None:
    """Do nothing when a batch is finished."""


@attrs.define(eq=False)
class HotRooms:
    """The rooms that this process owns and that were used of late."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _committer: Committer
    _max_bytes: int = MAX_BYTES
    _rooms: OrderedDict[RoomID, HotRoom] = attrs.Factory(OrderedDict)
    _weights: dict[RoomID, int] = attrs.Factory(dict)
    _total_bytes: int = 0
    _locks: KeyedLock[RoomID] = attrs.Factory(KeyedLock)

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def weight(self) -> int:
        """About how many bytes they take."""
        return self._total_bytes

    @property
    def limit(self) -> int:
        """The bound of `weight`, exceeded only by rooms in use."""
        return self._max_bytes

    def __contains__(self, room_id: RoomID) -> bool:
        return room_id in self._rooms

    @asynccontextmanager
    async def hold(
        self, room_id: RoomID, make: Callable[[], HotRoom] | None = None
    ) -> AsyncIterator[HotRoom]:
        """Have a room to oneself; `make` gives one that is not here, to be submitted as new.

        After an await inside, `check` must come before the room is relied on again.
        Raises: NotFound, for a room without state here, unless it can be made.
        """
        async with self._locks.hold(room_id):
            room = self._rooms.get(room_id)
            if room is None:
                room = await self._load(room_id, make)
            else:
                self._rooms.move_to_end(room_id)
            room.pins += 1
            try:
                yield room
            finally:
                room.pins -= 1
                self._release(room)

    @asynccontextmanager
    async def alone(self, room_id: RoomID) -> AsyncIterator[bool]:
        """Keep others from loading a room; tells whether nothing of it is under way."""
        async with self._locks.hold(room_id):
            room = self._rooms.get(room_id)
            yield room is None or not room.pins

    def drop(self, room_id: RoomID) -> None:
        """Forget a room that is no more; inside `alone`."""
        room = self._rooms.get(room_id)
        if room is not None:
            room.dropped = True
            self._forget(room_id)

    def check(self, room: HotRoom) -> None:
        """Make sure that a held room is still what will be on disk.

        Raises: RoomDropped.
        """
        if room.dropped:
            raise RoomDropped(room.room_id)

    def submit(
        self,
        room: HotRoom,
        placed: Sequence[Placed],
        head: RoomHead,
        new_room: NewRoom | None = None,
        finished: Callable[[Batch], None] = _nothing,
    ) -> Batch:
        """Put events into a held room, which ends in `head` from now on, and have them written.

        The room may be built upon at once. `finished` hears of success or failure.
        Raises: NotCommitted, and then nothing has changed.
        """
        self._committer.check_open()
        changed = new_room is not None or head.summary != room.head.summary
        room.head = head
        room.pins += 1
        for one in placed:
            room.pending[one.event.event_id] = one
            self._events.expect(one.event)
        batch = Batch(
            room.room_id,
            list(placed),
            HeadChange(
                tuple(one.event_id for one in head.extremities),
                head.snapshot,
                head.depth,
                head.summary if changed else None,
            ),
            new_room,
            partial(self._finished, room, finished),
        )
        if new_room is not None:
            self._keep(room)
        self._committer.submit(batch)
        return batch

    async def _load(self, room_id: RoomID, make: Callable[[], HotRoom] | None) -> HotRoom:
        record = await self._database.read_snapshot(read_room, room_id)
        room = None if record is None else make_room(room_id, record, self._events)
        if room is None and make is not None:
            return make()
        if room is None:
            raise NotFound("This server is not in that room, or there is none")
        # Nothing of the room is under way, as nobody has held it: what was read is current.
        self._states.remember_current(room_id, room.head.snapshot.map)
        self._keep(room)
        return room

    def _keep(self, room: HotRoom) -> None:
        self._rooms[room.room_id] = room
        self._weigh(room)

    def _weigh(self, room: HotRoom) -> None:
        weight = room.weight()
        self._total_bytes += weight - self._weights.get(room.room_id, 0)
        self._weights[room.room_id] = weight

    def _forget(self, room_id: RoomID) -> None:
        del self._rooms[room_id]
        self._total_bytes -= self._weights.pop(room_id)

    def _finished(self, room: HotRoom, then: Callable[[Batch], None], batch: Batch) -> None:
        for one in batch.placed:
            room.pending.pop(one.event.event_id, None)
        room.pins -= 1
        if batch.error is not None:
            room.dropped = True
            for one in batch.placed:
                self._events.expect_no_more(one.event.event_id)
            if self._rooms.get(room.room_id) is room:
                self._forget(room.room_id)
        then(batch)
        self._release(room)

    def _release(self, room: HotRoom) -> None:
        if room.pins or room.dropped or self._rooms.get(room.room_id) is not room:
            return
        room.trim()
        self._weigh(room)
        if self._total_bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        while self._total_bytes > self._max_bytes and len(self._rooms) > 1:
            idle = next((room for room in self._rooms.values() if not room.pins), None)
            if idle is None:
                return
            self._forget(idle.room_id)
