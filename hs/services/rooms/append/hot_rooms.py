"""Hot rooms: loaded on demand, locked while they change, evicted within a memory limit.

Rules:

- Each room has a lock. A room is loaded and changed only by the task that holds it, so there is
  never more than one copy of a room in this process.
- A room is pinned while a task holds it and while a batch of it is not committed. Pinned rooms
  are never evicted: memory is ahead of the database then, and a copy loaded from the database
  would miss the pending events. Conversely, a room that is loaded has nothing pending, so what
  was read is current.
- Commits finish in the committer's task, which does not take the lock. A failed commit marks the
  room as dropped and removes it from memory, possibly while another task holds it and awaits
  something. So a holder calls `check_not_dropped` after every await and does not await between
  that check and `submit`; otherwise it would build on events that were never stored.
- Between processes, rooms change hands (hs/repl/slots). `check_owner` raises NotOwner if this
  process may not write a room. It is called before a room is loaded and, with no await in between,
  before a batch is queued. When a room is lost, its copy here is dropped, and what is being read
  for one is not used: the room may come back after others have changed it.
- Batches that were submitted before the failure, on top of the failed one, are failed by the
  committer. The next holder loads the room from the database again.
"""

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs

from hs.core.errors import NotFound
from hs.core.ids import RoomID
from hs.lib.keyed_lock import Hold, KeyedLock
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.hot_room import HotRoom, RoomHead
from hs.services.rooms.append.pending_events import EventBatch, HeadChange, NewRoomRow, PendingEvent
from hs.services.rooms.append.room_loading import LoadedRoom, build_hot_room, load_room
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database

MAX_BYTES: Final = 64 * 1024 * 1024


class RoomDropped(Exception):
    """The room's commit failed while the caller awaited something: hold the room again."""


def _ignore_batch(batch: EventBatch) -> None:
    pass


def _own(room_id: str) -> None:
    pass


@attrs.define(eq=False)
class HotRooms:
    """The hot rooms of this process."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _committer: Committer
    _history_committer: Committer
    _max_bytes: int = MAX_BYTES
    _check_owner: Callable[[str], None] = _own
    _rooms: OrderedDict[RoomID, HotRoom] = attrs.Factory(OrderedDict)
    _loading: set[RoomID] = attrs.Factory(set)
    _weights: dict[RoomID, int] = attrs.Factory(dict)
    _total_bytes: int = 0
    _locks: KeyedLock[RoomID] = attrs.Factory(KeyedLock)
    _unfinished: Counter[RoomID] = attrs.Factory(Counter)  # batches

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def weight(self) -> int:
        """Estimated memory use of all rooms, in bytes."""
        return self._total_bytes

    @property
    def limit(self) -> int:
        """Limit of `weight`; exceeded only by pinned rooms and by a single large room."""
        return self._max_bytes

    def __contains__(self, room_id: RoomID) -> bool:
        return room_id in self._rooms

    def extremity_count(self, room_id: RoomID) -> int:
        """Return the number of forward extremities of a room; 0 if it is not in memory."""
        room = self._rooms.get(room_id)
        return 0 if room is None else len(room.head.extremities)

    def hold(self, room_id: RoomID, make: Callable[[], HotRoom] | None = None) -> "_HeldRoom":
        """Lock a room for exclusive use, loading it if necessary.

        After an await inside, call `check_not_dropped` before using the room again. `make` builds a
        room that is not stored here; it must be submitted with a `new_room`.
        Raises: NotFound, if this server has no state of the room and `make` is None; NotOwner.
        """
        return _HeldRoom(self, self._locks.hold(room_id), room_id, make)

    async def pin(self, room_id: RoomID, make: Callable[[], HotRoom] | None) -> HotRoom:
        """Load and pin a room; only `hold` calls this, under the room's lock."""
        self._check_owner(room_id)
        room = self._rooms.get(room_id)
        if room is None:
            room = await self._load(room_id, make)
        else:
            self._rooms.move_to_end(room_id)
        room.pins += 1
        return room

    def unpin(self, room: HotRoom) -> None:
        """Undo `pin`."""
        room.pins -= 1
        self._release(room)

    @asynccontextmanager
    async def exclusive(self, room_id: RoomID) -> AsyncIterator[bool]:
        """Lock a room without loading it; yield whether it is idle (not pinned)."""
        async with self._locks.hold(room_id):
            room = self._rooms.get(room_id)
            yield room is None or not room.pins

    def discard(self, room_id: RoomID) -> None:
        """Remove a deleted room from memory; only inside `exclusive`."""
        room = self._rooms.get(room_id)
        if room is not None:
            room.dropped = True
            self._remove(room_id)

    def has_unfinished(self, matches: Callable[[str], bool]) -> bool:
        """Return whether batches of some of these rooms are not committed yet."""
        return any(matches(room_id) for room_id in self._unfinished)

    def drop(self, matches: Callable[[str], bool]) -> None:
        """Remove rooms from memory that another process owns from now on."""
        for room_id in [each for each in self._rooms if matches(each)]:
            self._rooms[room_id].dropped = True
            self._remove(room_id)
        self._loading = {each for each in self._loading if not matches(each)}

    def check_not_dropped(self, room: HotRoom) -> None:
        """Raise RoomDropped if a commit of the held room has failed."""
        if room.dropped:
            raise RoomDropped(room.room_id)

    def submit(
        self,
        room: HotRoom,
        events: Sequence[PendingEvent],
        head: RoomHead,
        new_room: NewRoomRow | None = None,
        on_finished: Callable[[EventBatch], None] = _ignore_batch,
    ) -> EventBatch:
        """Append events to a held room, whose head becomes `head`, and queue their commit.

        The next events may be built on top at once. `on_finished` is called when the commit has
        succeeded or failed.
        Raises: NotCommitted, NotOwner; then nothing has changed.
        """
        self._check_owner(room.room_id)
        self._committer.check_open()
        changed = new_room is not None or head.summary != room.head.summary
        change = HeadChange(
            tuple(end.event_id for end in head.extremities),
            head.snapshot,
            head.depth,
            head.summary if changed else None,
        )
        batch = self._batch(room, events, head, change, on_finished)
        batch.new_room = new_room
        if new_room is not None:
            self._add(room)
        self._committer.submit(batch)
        return batch

    def submit_history(
        self, room: HotRoom, events: Sequence[PendingEvent], head: RoomHead
    ) -> EventBatch:
        """Add events from before the end of a held room, and queue their commit.

        `head` may differ from the room's head by redactions only. Nothing else of the room may be
        pending, and the caller waits for the commit before it releases the room: the two committers
        do not wait for each other.
        Raises: NotCommitted, NotOwner; then nothing has changed.
        """
        self._check_owner(room.room_id)
        self._history_committer.check_open()
        batch = self._batch(room, events, head, None, _ignore_batch)
        self._history_committer.submit(batch)
        return batch

    def _batch(
        self,
        room: HotRoom,
        events: Sequence[PendingEvent],
        head: RoomHead,
        change: HeadChange | None,
        on_finished: Callable[[EventBatch], None],
    ) -> EventBatch:
        room.head = head
        room.pins += 1
        self._unfinished[room.room_id] += 1
        for pending in events:
            room.pending[pending.event.event_id] = pending
            self._events.expect(pending.event)
        finish = partial(self._on_finished, room, on_finished)
        return EventBatch(room.room_id, list(events), change, on_finished=finish)

    def submit_outliers(
        self, room: HotRoom, events: Sequence[PendingEvent], row: NewRoomRow | None
    ) -> EventBatch:
        """Queue the commit of outliers, which change nothing in a held room.

        Raises: NotCommitted, NotOwner.
        """
        self._check_owner(room.room_id)
        self._committer.check_open()
        room.pins += 1
        self._unfinished[room.room_id] += 1
        for pending in events:
            room.pending[pending.event.event_id] = pending
        on_finished = partial(self._on_finished, room, _ignore_batch)
        batch = EventBatch(room.room_id, list(events), None, row, on_finished)
        self._committer.submit(batch)
        return batch

    async def _load(self, room_id: RoomID, make: Callable[[], HotRoom] | None) -> HotRoom:
        record = await self._read(room_id)
        room = None if record is None else build_hot_room(room_id, record, self._events)
        if room is None and make is not None:
            return make()
        if room is None:
            raise NotFound("This server is not in that room, or the room does not exist")
        # Rooms with uncommitted batches stay in memory, so what was read is current.
        self._states.remember_current(room_id, room.head.snapshot.map)
        self._add(room)
        return room

    async def _read(self, room_id: RoomID) -> LoadedRoom | None:
        """Read a room that belongs to this process all the while. Raises: NotOwner."""
        while True:
            self._check_owner(room_id)
            self._loading.add(room_id)
            try:
                record = await self._database.read_snapshot(load_room, room_id)
                if room_id in self._loading:
                    return record
            finally:
                self._loading.discard(room_id)

    def _add(self, room: HotRoom) -> None:
        self._rooms[room.room_id] = room
        self._weigh(room)

    def _weigh(self, room: HotRoom) -> None:
        weight = room.weight()
        self._total_bytes += weight - self._weights.get(room.room_id, 0)
        self._weights[room.room_id] = weight

    def _remove(self, room_id: RoomID) -> None:
        del self._rooms[room_id]
        self._total_bytes -= self._weights.pop(room_id)

    def _on_finished(
        self, room: HotRoom, then: Callable[[EventBatch], None], batch: EventBatch
    ) -> None:
        for pending in batch.events:
            room.pending.pop(pending.event.event_id, None)
        room.pins -= 1
        self._unfinished[room.room_id] -= 1
        if not self._unfinished[room.room_id]:
            del self._unfinished[room.room_id]
        if batch.error is not None:
            room.dropped = True
            for pending in batch.events:
                self._events.stop_expecting(pending.event.event_id)
            if self._rooms.get(room.room_id) is room:
                self._remove(room.room_id)
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
            unpinned = next((room for room in self._rooms.values() if not room.pins), None)
            if unpinned is None:
                return
            self._remove(unpinned.room_id)


@attrs.define(eq=False)
class _HeldRoom:
    """One use of a room under its lock; entering it returns the room."""

    _rooms: HotRooms
    _lock: Hold[RoomID]
    _room_id: RoomID
    _make: Callable[[], HotRoom] | None
    _room: HotRoom | None = None

    async def __aenter__(self) -> HotRoom:
        await self._lock.__aenter__()
        try:
            self._room = await self._rooms.pin(self._room_id, self._make)
        finally:
            if self._room is None:
                await self._lock.__aexit__()
        return self._room

    async def __aexit__(self, *_: object) -> None:
        if self._room is not None:
            self._rooms.unpin(self._room)
        await self._lock.__aexit__()
