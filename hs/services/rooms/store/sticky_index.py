"""The sticky events of all rooms in the memory of a process, as far as they fit.

Rules:

- A room is either in memory, with all its events that are still sticky, or only known to have
  events in the table. If there are too many events, the rooms with the most leave memory first, so
  that a flood in some rooms costs nothing in the others. Such a room returns when the last of its
  events has expired.
- Events are in the order of their stream IDs, of which each writer has its own: what a position
  does not cover is found from the end of each list.

Spec: MSC4354.
"""

import operator
from bisect import insort
from collections.abc import Iterator
from typing import Final, NamedTuple

import attrs

from hs.core.positions import VectorPosition
from hs.storage.rooms.sticky_events import StickyRecord

MAX_ROOMS: Final = 50_000
"""How many rooms may be known to have events in the table."""

by_stream_id = operator.attrgetter("stream_id")


class RoomInTable(NamedTuple):
    """A room whose events are only in the table: when the last one expires, and its position."""

    expires_ms: int
    stream_id: int


@attrs.define(eq=False)
class StickyIndex:
    """The sticky events in memory; if `is_complete` is false, nothing is known of any room."""

    max_events: int
    swept_ms: int
    is_complete: bool = True
    by_id: dict[str, StickyRecord] = attrs.Factory(dict)
    by_room: dict[str, dict[str, StickyRecord]] = attrs.Factory(dict)
    in_table: dict[str, RoomInTable] = attrs.Factory(dict)
    # Removed events stay in these lists until the next sweep.
    _by_writer: dict[str, list[StickyRecord]] = attrs.Factory(dict)

    def add(self, record: StickyRecord, now_ms: int) -> None:
        """Add an event; almost always it is the last one of its writer."""
        room_id = record.room_id
        before = self.in_table.get(room_id)
        if before is not None and before.expires_ms > now_ms:
            self.in_table[room_id] = RoomInTable(
                max(before.expires_ms, record.expires_ms), max(before.stream_id, record.stream_id)
            )
            return
        self.in_table.pop(room_id, None)
        self.remove(record.event_id)
        self.by_id[record.event_id] = record
        self.by_room.setdefault(room_id, {})[record.event_id] = record
        insort(self._by_writer.setdefault(record.writer, []), record, key=by_stream_id)
        if len(self.by_id) > self.max_events:
            self.sweep(now_ms)

    def remove(self, event_id: str) -> None:
        """Remove an event if it is there."""
        record = self.by_id.pop(event_id, None)
        if record is not None:
            in_room = self.by_room[record.room_id]
            del in_room[event_id]
            if not in_room:
                del self.by_room[record.room_id]

    def sweep(self, now_ms: int) -> None:
        """Drop expired events, and rooms with many events if there are too many of them."""
        kept = [record for record in self.by_id.values() if record.expires_ms > now_ms]
        if len(kept) > self.max_events:
            kept = self._without_large_rooms(kept)
        rooms = {key: room for key, room in self.in_table.items() if room.expires_ms > now_ms}
        self.is_complete = len(rooms) <= MAX_ROOMS
        self.in_table = rooms if self.is_complete else {}
        self.swept_ms = now_ms
        self.by_id, self.by_room, self._by_writer = {}, {}, {}
        for record in sorted(kept, key=by_stream_id) if self.is_complete else ():
            self.by_id[record.event_id] = record
            self.by_room.setdefault(record.room_id, {})[record.event_id] = record
            self._by_writer.setdefault(record.writer, []).append(record)

    def _without_large_rooms(self, kept: list[StickyRecord]) -> list[StickyRecord]:
        rooms: dict[str, list[StickyRecord]] = {}
        for record in kept:
            rooms.setdefault(record.room_id, []).append(record)
        count = len(kept)
        for room_id in sorted(rooms, key=lambda room_id: len(rooms[room_id]), reverse=True):
            if 2 * count <= self.max_events:
                break
            records = rooms.pop(room_id)
            count -= len(records)
            self.in_table[room_id] = RoomInTable(
                max(record.expires_ms for record in records),
                max(record.stream_id for record in records),
            )
        return [record for records in rooms.values() for record in records]

    def after(self, since: VectorPosition) -> Iterator[StickyRecord]:
        """Yield the events in memory that a position does not cover."""
        for writer, records in self._by_writer.items():
            seen = since.get(writer)
            for record in reversed(records):
                if record.stream_id <= seen:
                    break
                if self.by_id.get(record.event_id) is record:
                    yield record
