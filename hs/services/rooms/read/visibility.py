"""What a user may see of rooms: who may read them at all, and which of their events.

Events are judged by the state before each of them, as the specification says, but for one short
cut: a member of a room whose history is not closed sees all that came after their own membership
event, in which case their membership at those events is `join`.

Spec: client-server API, Room History Visibility; `unsigned.membership`.
"""

import sys
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, Protocol

import attrs

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.visibility import (
    HistoryVisibility,
    Viewpoint,
    may_see,
    membership_at,
    visibility_in,
)
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import EVENTS
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import Stays
from hs.services.rooms.store.memberships import LocalMembership, Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import Status, StoredEvent, membership_in
from hs.storage.database import Database
from hs.storage.rooms import timelines
from hs.storage.rooms.state import EMPTY_SNAPSHOT

ALWAYS: Final = sys.maxsize
MAX_POINTS: Final = 200_000
MAX_ROOMS: Final = 50_000

_VISIBILITY_KEY: Final = (event_types.HISTORY_VISIBILITY, "")
_OPEN: Final = frozenset((HistoryVisibility.SHARED, HistoryVisibility.WORLD_READABLE))


class IgnoredUsers(Protocol):
    """Knows whom a user ignores."""

    async def ignored_by(self, user_id: UserID) -> AbstractSet[UserID]: ...


class ErasedUsers(Protocol):
    """Knows which users asked to be erased when they left this server."""

    async def erased_among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]: ...


class Expiry(Protocol):
    """Knows which messages are too old to be shown."""

    async def hidden_before(self, room_id: RoomID) -> int:
        """Give the time (ms) of the oldest messages that are shown."""
        ...


class Seen(NamedTuple):
    """An event that a user may see, and their membership at it.

    `pruned`: only its essential fields are to be shown.
    """

    stored: StoredEvent
    membership: str
    pruned: bool = False


@attrs.frozen
class Standing:
    """What a user has to do with a room.

    They were joined until the event numbered `joined_until`: ALWAYS if they still are, 0 if
    they never were.
    """

    membership: str
    own: LocalMembership | None
    joined_until: int

    @property
    def is_joined(self) -> bool:
        """Tell whether the user is in the room."""
        return self.membership == event_types.JOIN

    @property
    def is_over(self) -> bool:
        """Tell whether the user once was in the room and no longer is."""
        return self.joined_until > 0 and not self.is_joined


class _Point(NamedTuple):
    """What the state at one snapshot says about one user."""

    visibility: EventID | None
    member: EventID | None


_START: Final = _Point(None, None)


class Visibility:
    """Decides what users see."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        events: EventStore,
        states: StateStore,
        memberships: Memberships,
        ignored: IgnoredUsers,
        erased: ErasedUsers,
        expiry: Expiry | None = None,
    ) -> None:
        self._database = database
        self._events = events
        self._states = states
        self._memberships = memberships
        self._ignored = ignored
        self._erased = erased
        self._expiry = expiry
        self.stays = Stays(events, states)
        self._points: LruCache[tuple[int, UserID], _Point] = LruCache(
            "visibility_points", max_entries=MAX_POINTS
        )
        self._current = LoadingCache(
            LruCache[RoomID, HistoryVisibility]("history_visibility", max_entries=MAX_ROOMS),
            self._read_current,
        )
        feed.subscribe(EVENTS, self._on_events)

    async def ignored_by(self, user_id: UserID) -> AbstractSet[UserID]:
        """Give whom a user ignores."""
        return await self._ignored.ignored_by(user_id)

    async def standing(self, user_id: UserID, room_id: RoomID) -> Standing:
        """Say what one of our users has to do with a room."""
        return await self._standing(await self._memberships.local_membership(room_id, user_id))

    async def _standing(self, own: LocalMembership | None) -> Standing:
        if own is None:
            return Standing(event_types.LEAVE, None, 0)
        if own.membership == event_types.JOIN:
            return Standing(event_types.JOIN, own, ALWAYS)
        end = await self.stays.end(own.event_id)
        return Standing(own.membership, own, 0 if end is None else end.stream_id)

    async def check_may_read(self, user_id: UserID, room_id: RoomID) -> Standing:
        """Refuse whoever is not in a room, was never in it and may not look into it either.

        Raises: Forbidden.
        """
        standing = await self.standing(user_id, room_id)
        if standing.is_joined:
            return standing
        standing = await self._standing(await self._memberships.look_again(room_id, user_id))
        own = standing.own
        if standing.is_joined:
            return standing
        if own is not None and not own.forgotten and standing.joined_until:
            return standing
        if await self.is_world_readable(room_id):
            return standing
        raise Forbidden("You are not a member of this room")

    async def check_joined(self, user_id: UserID, room_id: RoomID) -> None:
        """Refuse whoever is not in a room now.

        Raises: Forbidden.
        """
        own = await self._memberships.local_membership(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            own = await self._memberships.look_again(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            raise Forbidden("You are not in this room")

    async def is_world_readable(self, room_id: RoomID) -> bool:
        """Tell whether anyone may look into a room."""
        return await self.current(room_id) is HistoryVisibility.WORLD_READABLE

    async def is_open_to_members(self, room_id: RoomID) -> bool:
        """Tell whether members may read what was said before they came."""
        return await self.current(room_id) in _OPEN

    @property
    def expires(self) -> bool:
        """Tell whether messages on this server may be too old to be shown."""
        return self._expiry is not None

    async def hidden_before(self, room_id: RoomID) -> int:
        """Give the time (ms) of the oldest messages of a room that are shown."""
        return -ALWAYS if self._expiry is None else await self._expiry.hidden_before(room_id)

    async def current(self, room_id: RoomID) -> HistoryVisibility:
        """Give a room's setting as it is now."""
        return await self._current.get(room_id)

    async def filter_visible(
        self,
        user_id: UserID,
        events: Sequence[StoredEvent],
        *,
        ignore: bool = True,
        known: AbstractSet[EventID] = frozenset(),
    ) -> list[Seen]:
        """Give those of the events that a user may see, in the same order.

        With `ignore`, messages of users they ignore are left out. `known` are events that they
        may see in any case, as part of the state of a room they are in.
        """
        ignored = await self._ignored.ignored_by(user_id) if ignore else frozenset()
        rooms: dict[RoomID, _RoomView] = {}
        certain: list[Seen] = []
        unsure: list[StoredEvent] = []
        for stored in events:
            event = stored.event
            if stored.status != Status.ACCEPTED:
                continue
            if event.sender in ignored and event.state_key is None and event.sender != user_id:
                continue
            view = rooms.get(event.room_id)
            if view is None:
                view = rooms[event.room_id] = await self._room_view(user_id, event.room_id)
            if event.origin_server_ts < view.hidden_before and event.state_key is None:
                continue
            if stored.stream_id > view.certain_after:
                certain.append(Seen(stored, event_types.JOIN))
            else:
                unsure.append(stored)
        if not unsure:
            return certain
        views = {one.stored.event_id: one for one in certain}
        for seen in await self._judge(user_id, unsure, rooms, known):
            views[seen.stored.event_id] = seen
        return [views[one.event_id] for one in events if one.event_id in views]

    async def may_see_one(self, user_id: UserID, stored: StoredEvent) -> Seen | None:
        """Give one event as a user sees it; None if they may not."""
        seen = await self.filter_visible(user_id, (stored,))
        return seen[0] if seen else None

    async def _room_view(self, user_id: UserID, room_id: RoomID) -> "_RoomView":
        standing = await self.standing(user_id, room_id)
        certain_after = ALWAYS
        own = standing.own if standing.is_joined else None
        if own is not None and await self.is_open_to_members(room_id):
            certain_after = own.stream_id
        hidden_before = await self.hidden_before(room_id) if self.expires else -ALWAYS
        return _RoomView(standing.joined_until, certain_after, hidden_before)

    async def _judge(
        self,
        user_id: UserID,
        events: Sequence[StoredEvent],
        rooms: "dict[RoomID, _RoomView]",
        known: AbstractSet[EventID],
    ) -> list[Seen]:
        points = await self._points_of(user_id, [one.snapshot_id for one in events])
        used = {one for point in points.values() for one in point if one is not None}
        found = await self._events.get(used)
        seen: list[Seen] = []
        for stored in events:
            point = points.get(stored.snapshot_id or EMPTY_SNAPSHOT, _START)
            before = membership_in(found.get(point.member) if point.member else None)
            view = Viewpoint(
                _read(found.get(point.visibility) if point.visibility else None),
                before,
                stored.stream_id < rooms[stored.event.room_id].joined_until,
            )
            if stored.event_id in known or may_see(stored.event, user_id, view):
                seen.append(Seen(stored, membership_at(stored.event, user_id, before)))
        return await self._prune_erased(user_id, seen)

    async def _points_of(
        self, user_id: UserID, snapshot_ids: Iterable[int | None]
    ) -> dict[int, _Point]:
        member_key = (event_types.MEMBER, str(user_id))
        points: dict[int, _Point] = {EMPTY_SNAPSHOT: _START}
        unread: list[int] = []
        for snapshot_id in snapshot_ids:
            if snapshot_id is None or snapshot_id in points:
                continue
            point = self._points.get((snapshot_id, user_id))
            if point is None:
                state_map = self._states.snapshot_nowait(snapshot_id)
                if state_map is None:
                    unread.append(snapshot_id)
                    continue
                point = _Point(state_map.get(_VISIBILITY_KEY), state_map.get(member_key))
                self._points.put((snapshot_id, user_id), point)
            points[snapshot_id] = point
        if unread:
            entries = await self._database.read(
                timelines.entries_at, set(unread), [_VISIBILITY_KEY, member_key]
            )
            for snapshot_id, found in entries.items():
                point = _Point(_id(found.get(_VISIBILITY_KEY)), _id(found.get(member_key)))
                points[snapshot_id] = point
                self._points.put((snapshot_id, user_id), point)
        return points

    async def _prune_erased(self, user_id: UserID, seen: list[Seen]) -> list[Seen]:
        senders = {
            one.stored.event.sender for one in seen if one.membership != event_types.JOIN
        } - {user_id}
        if not senders:
            return seen
        erased = await self._erased.erased_among(senders)
        if not erased:
            return seen
        return [
            one._replace(pruned=True)
            if one.membership != event_types.JOIN and one.stored.event.sender in erased
            else one
            for one in seen
        ]

    async def _read_current(self, room_id: RoomID) -> HistoryVisibility:
        return _read(await self._states.current_event(room_id, *_VISIBILITY_KEY))

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.state_changes is None and row.type != event_types.HISTORY_VISIBILITY:
                continue
            if any(change[0] == event_types.HISTORY_VISIBILITY for change in row.changes()):
                self._current.invalidate(RoomID(row.room_id))


class _RoomView(NamedTuple):
    """`certain_after`: all events with greater numbers were seen by a joined member."""

    joined_until: int
    certain_after: int
    hidden_before: int


def _read(stored: StoredEvent | None) -> HistoryVisibility:
    return visibility_in(None if stored is None else content_of(stored))


def _id(event_id: str | None) -> EventID | None:
    return None if event_id is None else EventID(event_id)
