"""The last events of each active room, as the feed brought them.

A tail knows from which position on it is whole, so that its answer is either right or None, and
then the database is read. Events that clients are not shown are left out.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow, StateChange
from hs.repl.streams import EVENTS

MAX_EVENTS_PER_ROOM: Final = 100
MAX_BYTES: Final = 16 * 1024 * 1024
ENTRY_BYTES: Final = 500


class TailEntry(NamedTuple):
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
class _Tail:
    """`start` is the position behind which no event of the room is missing."""

    start: VectorPosition
    entries: deque[TailEntry] = attrs.Factory(deque)


class Tails:
    """The tails of all rooms in which something happened lately."""

    def __init__(
        self,
        feed: Feed,
        max_bytes: int = MAX_BYTES,
        max_events_per_room: int = MAX_EVENTS_PER_ROOM,
    ) -> None:
        self._feed = feed
        self._max_entries = max(1, max_bytes // ENTRY_BYTES)
        self._per_room = max_events_per_room
        self._count = 0
        # In the order of their last events, so that the first is dropped first.
        self._tails: OrderedDict[RoomID, _Tail] = OrderedDict()
        # Rooms without a tail had no event behind this; set by the first batch.
        self._floor: VectorPosition | None = None
        # For each writer, rooms in the order of the last events it wrote in them.
        self._last: dict[str, OrderedDict[RoomID, int]] = {}
        # For each writer, the last event that changed a membership.
        self._last_move: dict[str, int] = {}
        feed.subscribe(EVENTS, self._on_events)

    def since(self, room_id: RoomID, position: VectorPosition) -> list[TailEntry] | None:
        """Give a room's events behind a position, the earliest first; None: read the database."""
        tail = self._tails.get(room_id)
        start = self._start() if tail is None else tail.start
        if not position.covers_all(start):
            return None
        if tail is None:
            return []
        entries: list[TailEntry] = []
        for entry in reversed(tail.entries):
            if not position.covers(entry.writer, entry.stream_id):
                entries.append(entry)
            elif not position.ahead:
                break
        entries.reverse()
        return entries

    def last(self, room_id: RoomID, limit: int) -> Sequence[TailEntry] | None:
        """Give a room's last events, the earliest first; None if fewer than that are known."""
        tail = self._tails.get(room_id)
        if tail is None or len(tail.entries) < limit:
            return None
        return list(tail.entries)[-limit:] if limit else []

    def rooms_since(self, position: VectorPosition) -> set[RoomID] | None:
        """Give the rooms with events behind a position; None: they are not all known."""
        if not position.covers_all(self._start()):
            return None
        rooms: set[RoomID] = set()
        for writer, last in self._last.items():
            seen = position.get(writer)
            for room_id, stream_id in reversed(last.items()):
                if stream_id <= seen:
                    break
                rooms.add(room_id)
        return rooms

    def nobody_moved_since(self, position: VectorPosition) -> bool:
        """Tell whether it is certain that no membership of any room changed behind a position."""
        if not position.covers_all(self._start()):
            return False
        return all(position.covers(writer, at) for writer, at in self._last_move.items())

    def _start(self) -> VectorPosition:
        return self._feed.position(EVENTS) if self._floor is None else self._floor

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if self._floor is None:
            # While a batch is delivered, the feed tells the position before it.
            self._floor = self._feed.position(EVENTS)
        for stream_id, row in batch.rows:
            if row.type == event_types.MEMBER or row.state_changes is not None:
                self._last_move[batch.writer] = stream_id
            if not (row.outlier or row.rejected or row.soft_failed):
                self._append(batch.writer, stream_id, row)
        while self._count > self._max_entries and self._tails:
            self._drop_oldest()

    def _append(self, writer: str, stream_id: int, row: EventRow) -> None:
        room_id = RoomID(row.room_id)
        tail = self._tails.get(room_id)
        if tail is None:
            assert self._floor is not None
            tail = self._tails[room_id] = _Tail(self._floor)
        else:
            self._tails.move_to_end(room_id)
        tail.entries.append(_entry(writer, stream_id, row))
        self._count += 1
        if len(tail.entries) > self._per_room:
            gone = tail.entries.popleft()
            tail.start = tail.start.advance(gone.writer, gone.stream_id)
            self._count -= 1
        last = self._last.setdefault(writer, OrderedDict())
        last[room_id] = stream_id
        last.move_to_end(room_id)

    def _drop_oldest(self) -> None:
        room_id, tail = self._tails.popitem(last=False)
        self._count -= len(tail.entries)
        assert self._floor is not None
        for writer, last in self._last.items():
            stream_id = last.pop(room_id, None)
            if stream_id is not None:
                self._floor = self._floor.advance(writer, stream_id)
        for entry in tail.entries:
            self._floor = self._floor.advance(entry.writer, entry.stream_id)


def _entry(writer: str, stream_id: int, row: EventRow) -> TailEntry:
    return TailEntry(
        stream_id,
        writer,
        EventID(row.event_id),
        row.type,
        row.state_key,
        UserID(row.sender),
        row.depth,
        row.contains_url,
        row.changes(),
    )
