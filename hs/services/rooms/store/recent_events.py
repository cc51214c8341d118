"""The recent events of each active room, as delivered by the feed.

Rules:

- An answer is either complete or None; then the caller reads the database.
- `_RecentInRoom.start` is the position after which no event of the room is missing. It advances
  when the room's oldest event is dropped.
- `_floor` is the position after which rooms without an entry had no event. It advances when a room
  is dropped. It is set by the first batch: before that, nothing is known about earlier events.
- Positions are vectors, as several processes write the stream. An event is after a position if its
  own writer's number is. The events of a room have one writer unless it passed to another process:
  then all entries have to be compared where writers are ahead of the rest.
- Events that are not sent to clients (outliers, rejected and soft-failed ones) are left out.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow, StateChange
from hs.repl.feed import Batch, Feed

MAX_EVENTS_PER_ROOM: Final = 100
MAX_BYTES: Final = 16 * 1024 * 1024
ENTRY_BYTES: Final = 500
MAX_GAPS: Final = 10_000


class RecentEvent(NamedTuple):
    """One event of a room; `changes` is what it changed in the current state."""

    stream_id: int
    writer: str
    event_id: EventID
    type: str
    state_key: str | None
    sender: UserID
    depth: int
    contains_url: bool
    changes: tuple[StateChange, ...]


@attrs.define(eq=False)
class _RecentInRoom:
    """The recent events of one room, complete after the position `start`.

    `has_several_writers` says whether there may be events of several writers.
    """

    start: VectorPosition
    entries: deque[RecentEvent] = attrs.Factory(deque)
    has_several_writers: bool = False

    def append(self, entry: RecentEvent) -> None:
        if self.entries and self.entries[-1].writer != entry.writer:
            self.has_several_writers = True
        self.entries.append(entry)


class RecentEvents:
    """The recent events of all active rooms.

    Without `follows`, in a process that nobody asks, nothing is remembered: no answer but that of
    the present position is complete.
    """

    def __init__(
        self,
        feed: Feed,
        max_bytes: int = MAX_BYTES,
        max_events_per_room: int = MAX_EVENTS_PER_ROOM,
        *,
        follows: bool = True,
    ) -> None:
        self._feed = feed
        self._max_entries = max(1, max_bytes // ENTRY_BYTES)
        self._per_room = max_events_per_room
        self._dropped_at_once = max_events_per_room // 4
        self._count = 0
        # In the order of the rooms' latest events: the first is dropped first.
        self._rooms: OrderedDict[RoomID, _RecentInRoom] = OrderedDict()
        # Rooms without an entry had no event after this; set by the first batch.
        self._floor: VectorPosition | None = None
        # For each writer, the number of its latest event in each room, the latest last.
        self._last: dict[str, OrderedDict[RoomID, int]] = {}
        # For each writer, the number of the latest event that changed a membership.
        self._last_membership_change: dict[str, int] = {}
        # The latest event of a room before which some are missing, where that has happened.
        self._gaps: dict[RoomID, int] = {}
        if follows:
            feed.subscribe(EVENTS, self._on_events)

    def since(self, room_id: RoomID, position: VectorPosition) -> list[RecentEvent] | None:
        """Return a room's events after a position, the earliest first; None: read the database."""
        recent = self._rooms.get(room_id)
        complete_since = self._complete_since() if recent is None else recent.start
        if not position.covers_all(complete_since):
            return None
        if recent is None:
            return []
        entries: list[RecentEvent] = []
        for entry in reversed(recent.entries):
            if not position.covers(entry.writer, entry.stream_id):
                entries.append(entry)
            elif not (position.ahead and recent.has_several_writers):
                break
        entries.reverse()
        return entries

    def latest_gap(self, room_id: RoomID) -> int | None:
        """Return the stream ID of the latest event before which events of the room are missing.

        Only gaps since the start of this process are known.
        """
        return self._gaps.get(room_id) if self._gaps else None

    def last(self, room_id: RoomID, limit: int) -> Sequence[RecentEvent] | None:
        """Return a room's last events, the earliest first; None if fewer are in memory."""
        recent = self._rooms.get(room_id)
        if recent is None or len(recent.entries) < limit:
            return None
        return list(recent.entries)[-limit:] if limit else []

    def rooms_since(self, position: VectorPosition) -> set[RoomID] | None:
        """Return the rooms with events after a position; None if not all are known."""
        if not position.covers_all(self._complete_since()):
            return None
        rooms: set[RoomID] = set()
        for writer, last in self._last.items():
            seen = position.get(writer)
            for room_id, stream_id in reversed(last.items()):
                if stream_id <= seen:
                    break
                rooms.add(room_id)
        return rooms

    def memberships_unchanged_since(self, position: VectorPosition) -> bool:
        """Return True if certainly no membership of any room changed after a position."""
        if not position.covers_all(self._complete_since()):
            return False
        for writer, stream_id in self._last_membership_change.items():
            if not position.covers(writer, stream_id):
                return False
        return True

    def _complete_since(self) -> VectorPosition:
        return self._feed.position(EVENTS) if self._floor is None else self._floor

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if self._floor is None:
            # During delivery, the position of the feed is still the one before the batch.
            self._floor = self._feed.position(EVENTS)
        for stream_id, row in batch.rows:
            if row.type == event_types.MEMBER or row.state_changes is not None:
                self._last_membership_change[batch.writer] = stream_id
            if row.after_gap and (row.is_shown or row.hidden):
                self._note_gap(RoomID(row.room_id), stream_id)
            if row.is_shown:
                self._append(batch.writer, stream_id, row)
        while self._count > self._max_entries and self._rooms:
            self._drop_oldest()

    def _note_gap(self, room_id: RoomID, stream_id: int) -> None:
        self._gaps[room_id] = stream_id
        if len(self._gaps) > MAX_GAPS:
            del self._gaps[next(iter(self._gaps))]

    def _append(self, writer: str, stream_id: int, row: EventRow) -> None:
        room_id = RoomID(row.room_id)
        recent = self._rooms.get(room_id)
        if recent is None:
            assert self._floor is not None
            recent = self._rooms[room_id] = _RecentInRoom(self._floor)
        else:
            self._rooms.move_to_end(room_id)
        recent.append(_entry(writer, stream_id, row))
        self._count += 1
        if len(recent.entries) > self._per_room + self._dropped_at_once:
            self._drop_earliest(recent)
        last = self._last.setdefault(writer, OrderedDict())
        last[room_id] = stream_id
        last.move_to_end(room_id)

    def _drop_earliest(self, recent: _RecentInRoom) -> None:
        """Drop the earliest events of a room: several together, as a vector costs more than one."""
        dropped: dict[str, int] = {}
        while len(recent.entries) > self._per_room:
            entry = recent.entries.popleft()
            dropped[entry.writer] = entry.stream_id
            self._count -= 1
        recent.has_several_writers = (
            recent.has_several_writers and len({entry.writer for entry in recent.entries}) > 1
        )
        for writer, stream_id in dropped.items():
            recent.start = recent.start.advance(writer, stream_id)

    def _drop_oldest(self) -> None:
        room_id, recent = self._rooms.popitem(last=False)
        self._count -= len(recent.entries)
        assert self._floor is not None
        for writer, last in self._last.items():
            stream_id = last.pop(room_id, None)
            if stream_id is not None:
                self._floor = self._floor.advance(writer, stream_id)
        for entry in recent.entries:
            self._floor = self._floor.advance(entry.writer, entry.stream_id)


def _entry(writer: str, stream_id: int, row: EventRow) -> RecentEvent:
    return RecentEvent(
        stream_id=stream_id,
        writer=writer,
        event_id=EventID(row.event_id),
        type=row.type,
        state_key=row.state_key,
        sender=UserID(row.sender),
        depth=row.depth,
        contains_url=row.contains_url,
        changes=row.changes(),
    )
