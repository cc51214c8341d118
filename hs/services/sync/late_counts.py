"""Rooms of which a client has an unread count from before push rules were evaluated.

Rules:

- A response does not wait long for the evaluation. If it has counts while events are left to be
  evaluated, its token says up to which event these are exact (`counted`).
- The next response has the rooms whose counts the evaluation has changed since, as if something
  else had changed in them. Usually no event is left, and this costs nothing.
- The position is read before counts are, so they are at least as new as it says.
- A process that began to follow the evaluation later does not know the rooms. Then the response
  has all rooms with events since, once.
"""

from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.core.sync_token import SyncToken
from hs.services.sync.room_selection import RoomSelection
from hs.services.sync.sources import UnreadCountSource
from hs.services.sync.sync_context import SyncContext


@attrs.frozen(eq=False)
class LateCounts:
    """The rooms with changed counts.

    `reached` is the position up to which the client's counts are exact after the response; None if
    that is the end of the response.
    """

    rooms: AbstractSet[RoomID]
    reached: VectorPosition | None


NO_LATE_COUNTS: Final = LateCounts(frozenset(), None)


@attrs.frozen(eq=False)
class LateCountsSection:
    """The reader of rooms with changed counts for `/sync`."""

    _counts: UnreadCountSource
    _selection: RoomSelection

    async def load(self, context: SyncContext, *, has_rooms: bool) -> LateCounts:
        """Return the joined rooms with changed counts, before the response's counts are read.

        `has_rooms` says whether the response has rooms without them.
        """
        late = await load_late_counts(
            self._counts,
            context.since,
            context.events_position,
            partial(self._selection.rooms_with_events, context),
            has_rooms=has_rooms,
        )
        if late is NO_LATE_COUNTS:
            return late
        rooms = {room_id for room_id in late.rooms if self._is_joined(context, room_id)}
        return attrs.evolve(late, rooms=rooms)

    def _is_joined(self, context: SyncContext, room_id: RoomID) -> bool:
        own = context.rooms.get(room_id)
        return (
            own is not None
            and own.membership == event_types.JOIN
            and self._selection.allows_room(context, room_id)
        )


async def load_late_counts(
    source: UnreadCountSource,
    since: SyncToken | None,
    end: VectorPosition,
    rooms_with_events: Callable[[VectorPosition], Awaitable[AbstractSet[RoomID]]],
    *,
    has_rooms: bool,
) -> LateCounts:
    """Return the rooms, of all users, for a request's token and the end of its response.

    `has_rooms` says whether the response has rooms without them. `rooms_with_events` returns the
    rooms with events after a position, for a process that does not know the others.
    """
    told = None if since is None else since.counted
    if told is None and not has_rooms:
        return NO_LATE_COUNTS
    reached = await source.catch_up()
    if told is None and reached is None:
        return NO_LATE_COUNTS
    rooms: AbstractSet[RoomID] = frozenset()
    if told is not None and (reached is None or not told.covers_all(reached)):
        changed = source.changed_since(told)
        rooms = await rooms_with_events(told) if changed is None else changed
    is_exact = reached is None or reached.covers_all(end)
    return LateCounts(rooms, None if is_exact else reached)
