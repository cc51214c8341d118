"""The rooms whose unread counts the evaluation changed lately, in this process.

A room is found by the position in the stream `events` up to which push rules were evaluated when
its counts changed. Unlike positions in the stream `unread`, those mean the same in every process
and after restarts.
"""

from collections import OrderedDict
from typing import Final

from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import UnreadRow

MAX_ROOMS: Final = 20_000


class CountChanges:
    """The last change in each room, back to the position at which `begin` was called."""

    def __init__(self) -> None:
        # For each writer of events its rooms, in the order of their last changes.
        self._last: dict[str, OrderedDict[RoomID, int]] = {}
        self._floor: VectorPosition | None = None

    def begin(self, evaluated: VectorPosition) -> None:
        """Note that every change by events after a position will be added, unless noted before."""
        if self._floor is None:
            self._floor = evaluated

    def add(self, row: UnreadRow) -> None:
        """Add the changes of a row of the stream `unread`."""
        rooms = row.rooms()
        if not rooms:
            return
        last = self._last.setdefault(row.writer, OrderedDict())
        for room_id in rooms:
            last[RoomID(room_id)] = row.upto
            last.move_to_end(RoomID(room_id))
        while len(last) > MAX_ROOMS:
            _, upto = last.popitem(last=False)
            if self._floor is not None:
                self._floor = self._floor.advance(row.writer, upto)

    def since(self, position: VectorPosition) -> set[RoomID] | None:
        """Return the rooms whose counts changed by events after a position; None if not known."""
        if self._floor is None or not position.covers_all(self._floor):
            return None
        rooms: set[RoomID] = set()
        for writer, last in self._last.items():
            seen = position.get(writer)
            for room_id, upto in reversed(last.items()):
                if upto <= seen:
                    break
                rooms.add(room_id)
        return rooms

    def clear(self) -> None:
        """Forget all changes, until `begin` is called again."""
        self._last.clear()
        self._floor = None
