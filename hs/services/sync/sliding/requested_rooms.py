"""The rooms in the ranges of a request's lists, and those that it subscribes to.

Spec: MSC4186, Lists and subscriptions.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import attrs

from hs.core.ids import RoomID, UserID
from hs.services.rooms.store.memberships import RoomsOf
from hs.services.sync.sliding.account_data_view import AccountDataView
from hs.services.sync.sliding.connections import SlidingConnection
from hs.services.sync.sliding.request import (
    RoomParameters,
    SlidingListRequest,
    SlidingRequest,
    room_parameters,
)
from hs.services.sync.sliding.room_activity import RoomListProperties


@attrs.define(eq=False)
class RequestedRooms:
    """The rooms that a request selects, by list and together."""

    counts: dict[str, int]
    by_list: dict[str, Sequence[RoomID]]
    subscribed: Sequence[RoomID]
    rooms: dict[RoomID, RoomParameters]
    facts: Mapping[RoomID, RoomListProperties]
    """The properties of all rooms that may be listed, whether in a range or not."""
    depends_on_order: bool
    """Whether new events can change which rooms are in the ranges."""
    reports_leaving: bool
    """Whether a room is included only to report that the user left it."""
    matching: Callable[[], AbstractSet[RoomID]]
    """Returns the rooms that pass the filters of a list, whether in a range or not."""
    sent_at: int = -1
    """The number of the connection state that records these rooms as sent."""
    _lists_of: dict[RoomID, list[str]] | None = None

    def lists_of(self, room_id: RoomID) -> list[str]:
        """Return the names of the lists whose ranges include a room."""
        if self._lists_of is None:
            self._lists_of = {}
            for name, room_ids in self.by_list.items():
                for listed_id in room_ids:
                    self._lists_of.setdefault(listed_id, []).append(name)
        return self._lists_of.get(room_id, [])


@attrs.frozen(eq=False)
class SlidingSyncContext:
    """A request with its user, connection state, and the user's rooms and account data."""

    user_id: UserID
    request: SlidingRequest
    connection: SlidingConnection
    rooms: RoomsOf
    account_data: AccountDataView


@attrs.frozen(eq=False)
class RoomOrder:
    """The rooms of each list, the latest first, and the sort key of each room."""

    keys: dict[RoomID, int]
    by_list: dict[str, list[RoomID]]
    _matching: set[RoomID] = attrs.field(factory=set, init=False)

    def matching(self) -> AbstractSet[RoomID]:
        """Return the rooms of all lists; computed once, as a move changes only their order."""
        if not self._matching:
            self._matching.update(*self.by_list.values())
        return self._matching

    def move(self, room_id: RoomID, key: int) -> None:
        """Change the sort key of a room, in time that hardly grows with the lists."""
        before = self.keys[room_id]
        listed: list[list[RoomID]] = []
        for room_ids in self.by_list.values():
            index = bisect_left(room_ids, -before, key=self._place)
            while index < len(room_ids) and self.keys[room_ids[index]] == before:
                if room_ids[index] == room_id:
                    del room_ids[index]
                    listed.append(room_ids)
                    break
                index += 1
        self.keys[room_id] = key
        for room_ids in listed:
            insort(room_ids, room_id, key=self._place)

    def _place(self, room_id: RoomID) -> int:
        return -self.keys[room_id]


def uses_spaces(parameters: SlidingListRequest) -> bool:
    """Return whether a list has a `spaces` filter."""
    return parameters.filters is not None and parameters.filters.spaces is not None


def select_rooms(
    context: SlidingSyncContext,
    order: RoomOrder,
    facts: Mapping[RoomID, RoomListProperties],
    subscribed: Sequence[RoomID],
) -> RequestedRooms:
    """Return the rooms in the ranges of the lists, and the subscribed rooms."""
    requested = RequestedRooms(
        counts={},
        by_list={},
        subscribed=subscribed,
        rooms={},
        facts=facts,
        depends_on_order=False,
        reports_leaving=False,
        matching=order.matching,
    )
    unions = _Unions({})
    for name, parameters in context.request.lists.items():
        matching = order.by_list[name]
        requested.counts[name] = len(matching)
        requested.by_list[name] = in_ranges = _in_ranges(parameters, matching)
        if len(in_ranges) < len(matching) or uses_spaces(parameters):
            requested.depends_on_order = True
        unions.add(requested.rooms, in_ranges, room_parameters(parameters, context.user_id))
    for room_id in subscribed:
        subscription = context.request.room_subscriptions[room_id]
        unions.add(requested.rooms, (room_id,), room_parameters(subscription, context.user_id))
    return requested


def _in_ranges(parameters: SlidingListRequest, room_ids: Sequence[RoomID]) -> Sequence[RoomID]:
    ranges = parameters.windows()
    if ranges is None:
        return list(room_ids)
    if len(ranges) == 1:
        start, end = ranges[0]
        return list(room_ids[start : end + 1])
    indexes = sorted(
        {n for start, end in ranges for n in range(start, min(end + 1, len(room_ids)))}
    )
    return [room_ids[n] for n in indexes]


@attrs.frozen(eq=False)
class _Unions:
    """The parameters of rooms that are in several lists, computed and kept once for all of them."""

    _by_parts: dict[tuple[int, int], RoomParameters]
    # Keeps the parts alive, which are known by their addresses.
    _parts: list[RoomParameters] = attrs.field(factory=list, init=False)

    def add(
        self,
        rooms: dict[RoomID, RoomParameters],
        room_ids: Iterable[RoomID],
        config: RoomParameters,
    ) -> None:
        """Add the parameters of a list or subscription to those of its rooms."""
        self._parts.append(config)
        for room_id in room_ids:
            existing = rooms.get(room_id)
            rooms[room_id] = config if existing is None else self._union(existing, config)

    def _union(self, existing: RoomParameters, config: RoomParameters) -> RoomParameters:
        parts = (id(existing), id(config))
        union = self._by_parts.get(parts)
        if union is None:
            union = self._by_parts[parts] = existing.union(config)
            self._parts.append(existing)
        return union
