"""Which rooms a user may read, and which of their events.

Rules:

- Whether a user sees an event depends on the state before the event: the history visibility and the
  user's membership in it. What a snapshot says about a user never changes, so it is cached.
- Shortcut: a joined member of a room whose history is shared or world-readable sees every event
  with a greater stream ID than their own member event, and their membership at it is `join`.
  Leaving and joining again gives a later member event, so the shortcut never covers a time outside
  the room.
- `shared` history is visible to users who joined at any later time, even if they have left since.
  The membership history says when they last left; their latest member event may be newer.
- Events are visible to joined users while they are sticky (MSC4354), whatever the history
  visibility is.
- Before access is refused, the user's membership is read from the database, as another process may
  have let them in and the feed of this process not have delivered it yet.
- Messages that retention has expired, and messages of ignored users, are hidden; state events never
  are. Messages of erased users are redacted for users who were not joined when they were sent.

Spec: client-server API, Room History Visibility; `unsigned.membership`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import attrs

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import EVENTS, EventRow
from hs.core.visibility import (
    HistoryVisibility,
    VisibilityContext,
    may_see,
    membership_at,
    visibility_in,
)
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed, Interest
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.accounts.lifecycle.erased_users import ErasedUsersCache
from hs.services.rooms.read.event_prefixes import EventPrefix
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.read.retention_policy import RetentionPolicies
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import MembershipHistory
from hs.services.rooms.store.memberships import LocalMembership, Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.sticky_events import StickyEvents
from hs.services.rooms.store.stored_event import EventStatus, StoredEvent, membership_in
from hs.storage.database import Database
from hs.storage.rooms import timelines
from hs.storage.rooms.state import EMPTY_SNAPSHOT

ALWAYS: Final = sys.maxsize
MAX_USER_STATES: Final = 200_000
MAX_ROOMS: Final = 50_000

_VISIBILITY_KEY: Final = (event_types.HISTORY_VISIBILITY, "")
_OPEN_TO_MEMBERS: Final = frozenset((HistoryVisibility.SHARED, HistoryVisibility.WORLD_READABLE))


class VisibleEvent(NamedTuple):
    """An event that a user may see, and their membership at it.

    `pruned`: only the redacted form is to be shown.
    """

    stored: StoredEvent
    membership: str
    pruned: bool = False


@attrs.frozen
class OriginAccess:
    """A user's relation to a room.

    The user was joined until the event with the stream ID `joined_until`: ALWAYS if they still are,
    0 if they never were. `own` is their membership, None if they have none.
    """

    membership: str
    own: LocalMembership | None
    joined_until: int

    @property
    def is_joined(self) -> bool:
        """Whether the user is joined."""
        return self.membership == event_types.JOIN

    @property
    def has_left(self) -> bool:
        """Whether the user was joined once and no longer is."""
        return self.joined_until > 0 and not self.is_joined


class _UserState(NamedTuple):
    """The entries of one snapshot that decide visibility for one user."""

    visibility: EventID | None
    member: EventID | None


_BEFORE_CREATE: Final = _UserState(None, None)


class Visibility:
    """Decides which rooms and events users see."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        events: EventStore,
        states: StateStore,
        memberships: Memberships,
        membership_history: MembershipHistory,
        ignored: AccountDataService,
        erased: ErasedUsersCache,
        sticky: StickyEvents,
        expiry: RetentionPolicies | None = None,
    ) -> None:
        self._database = database
        self._events = events
        self._states = states
        self._memberships = memberships
        self._ignored = ignored
        self._erased = erased
        self._sticky = sticky
        self._expiry = expiry
        self._membership_history = membership_history
        self._user_states: LruCache[tuple[int, UserID], _UserState] = LruCache(
            "visibility_points", max_entries=MAX_USER_STATES
        )
        self._cached_current = LruCache[RoomID, HistoryVisibility](
            "history_visibility", max_entries=MAX_ROOMS
        )
        self._current = LoadingCache(self._cached_current, self._read_current)
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    async def ignored_by(self, user_id: UserID) -> AbstractSet[UserID]:
        """Return the users that a user ignores."""
        return await self._ignored.ignored_by(user_id)

    async def access(self, user_id: UserID, room_id: RoomID) -> OriginAccess:
        """Return a local user's relation to a room."""
        return await self._access_of(await self._memberships.local_membership(room_id, user_id))

    async def _access_of(self, own: LocalMembership | None) -> OriginAccess:
        if own is None:
            return OriginAccess(event_types.LEAVE, None, 0)
        if own.membership == event_types.JOIN:
            return OriginAccess(event_types.JOIN, own, ALWAYS)
        ending = await self._membership_history.last_end(own.event_id)
        return OriginAccess(own.membership, own, 0 if ending is None else ending.stream_id)

    async def check_may_read(self, user_id: UserID, room_id: RoomID) -> OriginAccess:
        """Return the user's access; raise Forbidden if they may not read the room at all.

        Users may read a room that they are or were joined to, unless they forgot it, and
        world-readable rooms.
        """
        access = await self.access(user_id, room_id)
        if access.is_joined:
            return access
        access = await self._access_of(await self._memberships.look_again(room_id, user_id))
        own = access.own
        if access.is_joined:
            return access
        if own is not None and not own.forgotten and access.joined_until:
            return access
        if await self.is_world_readable(room_id):
            return access
        raise Forbidden("You are not a member of this room")

    async def check_joined(self, user_id: UserID, room_id: RoomID) -> None:
        """Raise Forbidden if the user is not joined."""
        own = await self._memberships.local_membership(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            own = await self._memberships.look_again(room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            raise Forbidden("You are not in this room")

    async def is_world_readable(self, room_id: RoomID) -> bool:
        """Return whether everybody may read the room."""
        return await self.current(room_id) is HistoryVisibility.WORLD_READABLE

    async def is_open_to_members(self, room_id: RoomID) -> bool:
        """Return whether members may read events from before they joined."""
        return await self.current(room_id) in _OPEN_TO_MEMBERS

    @property
    def expires(self) -> bool:
        """Whether retention policies are enabled."""
        return self._expiry is not None

    async def hidden_before(self, room_id: RoomID) -> int:
        """Return the time in ms before which messages of a room are hidden."""
        return -ALWAYS if self._expiry is None else await self._expiry.hidden_before(room_id)

    async def current(self, room_id: RoomID) -> HistoryVisibility:
        """Return a room's current history visibility."""
        visibility = self._cached_current.get(room_id) or self._current_in_memory(room_id)
        return visibility or await self._current.get(room_id)

    def learn(self, room_ids: Iterable[RoomID], loaded: Mapping[EventID, EventPrefix]) -> None:
        """Remember the history visibility of rooms, whose state events have just been loaded."""
        for room_id in room_ids:
            state = self._states.current_nowait(room_id)
            if state is None or room_id in self._cached_current:
                continue
            event_id = state.get(_VISIBILITY_KEY)
            if event_id is None:
                self._cached_current.put(room_id, visibility_in(None))
            elif event_id in loaded:
                self._cached_current.put(room_id, visibility_in(loaded[event_id].content()))

    def _current_in_memory(self, room_id: RoomID) -> HistoryVisibility | None:
        # What is in memory is exact as of the feed, so it may be cached as long as nothing is
        # awaited in between.
        state = self._states.current_nowait(room_id)
        event_id = None if state is None else state.get(_VISIBILITY_KEY)
        stored = None if event_id is None else self._events.get_nowait(event_id)
        if stored is None:
            return None
        visibility = _history_visibility(stored)
        self._cached_current.put(room_id, visibility)
        return visibility

    async def filter_visible(
        self,
        user_id: UserID,
        events: Sequence[StoredEvent],
        *,
        ignore: bool = True,
        known: AbstractSet[EventID] = frozenset(),
    ) -> list[VisibleEvent]:
        """Return the events that a user may see, in the same order.

        With `ignore`, messages of ignored users are left out. Events in `known` are visible in any
        case, as they belong to the state of a room that the user is joined to.
        """
        ignored = await self._ignored.ignored_by(user_id) if ignore else frozenset()
        rooms: dict[RoomID, RoomView] = {}
        certain: list[VisibleEvent] = []
        unsure: list[StoredEvent] = []
        for stored in events:
            event = stored.event
            if stored.status != EventStatus.ACCEPTED:
                continue
            if event.sender in ignored and event.state_key is None and event.sender != user_id:
                continue
            view = rooms.get(event.room_id)
            if view is None:
                view = rooms[event.room_id] = await self.room_view(user_id, event.room_id)
            if event.origin_server_ts < view.hidden_before and event.state_key is None:
                continue
            if stored.stream_id > view.certain_after:
                certain.append(VisibleEvent(stored, event_types.JOIN))
            else:
                unsure.append(stored)
        if not unsure:
            return certain
        visible_by_id = {visible.stored.event_id: visible for visible in certain}
        for visible in await self._check_states(user_id, unsure, rooms, known):
            visible_by_id[visible.stored.event_id] = visible
        return [visible_by_id[each.event_id] for each in events if each.event_id in visible_by_id]

    async def filter_one(self, user_id: UserID, stored: StoredEvent) -> VisibleEvent | None:
        """Return an event as a user sees it; None if they may not see it."""
        visible = await self.filter_visible(user_id, (stored,))
        return visible[0] if visible else None

    async def room_view(self, user_id: UserID, room_id: RoomID) -> "RoomView":
        """Return what decides which events of a room a user sees."""
        access = await self.access(user_id, room_id)
        certain_after = ALWAYS
        own = access.own if access.is_joined else None
        if own is not None and await self.is_open_to_members(room_id):
            certain_after = own.stream_id
        hidden_before = await self.hidden_before(room_id) if self.expires else -ALWAYS
        return RoomView(access.joined_until, certain_after, hidden_before)

    async def _check_states(
        self,
        user_id: UserID,
        events: Sequence[StoredEvent],
        rooms: "dict[RoomID, RoomView]",
        known: AbstractSet[EventID],
    ) -> list[VisibleEvent]:
        user_states = await self._load_user_states(
            user_id, [stored.snapshot_id for stored in events]
        )
        event_ids = {
            each for user_state in user_states.values() for each in user_state if each is not None
        }
        state_events = await self._events.get(event_ids)
        visible: list[VisibleEvent] = []
        for stored in events:
            user_state = user_states.get(stored.snapshot_id or EMPTY_SNAPSHOT, _BEFORE_CREATE)
            membership = membership_in(
                state_events.get(user_state.member) if user_state.member else None
            )
            context = VisibilityContext(
                _history_visibility(
                    state_events.get(user_state.visibility) if user_state.visibility else None
                ),
                membership,
                stored.stream_id < rooms[stored.event.room_id].joined_until,
            )
            if (
                stored.event_id in known
                or may_see(stored.event, user_id, context)
                or self._is_sticky_for(stored, rooms[stored.event.room_id])
            ):
                visible.append(
                    VisibleEvent(stored, membership_at(stored.event, user_id, membership))
                )
        return await self._prune_erased(user_id, visible)

    def _is_sticky_for(self, stored: StoredEvent, view: "RoomView") -> bool:
        return view.joined_until == ALWAYS and self._sticky.is_sticky(stored)

    async def _load_user_states(
        self, user_id: UserID, snapshot_ids: Iterable[int | None]
    ) -> dict[int, _UserState]:
        member_key = (event_types.MEMBER, str(user_id))
        user_states: dict[int, _UserState] = {EMPTY_SNAPSHOT: _BEFORE_CREATE}
        unknown: list[int] = []
        for snapshot_id in snapshot_ids:
            if snapshot_id is None or snapshot_id in user_states:
                continue
            user_state = self._user_states.get((snapshot_id, user_id))
            if user_state is None:
                state_map = self._states.snapshot_nowait(snapshot_id)
                if state_map is None:
                    unknown.append(snapshot_id)
                    continue
                user_state = _UserState(state_map.get(_VISIBILITY_KEY), state_map.get(member_key))
                self._user_states.put((snapshot_id, user_id), user_state)
            user_states[snapshot_id] = user_state
        if unknown:
            entries = await self._database.read(
                timelines.entries_at, set(unknown), [_VISIBILITY_KEY, member_key]
            )
            for snapshot_id, state_entries in entries.items():
                user_state = _UserState(
                    _id(state_entries.get(_VISIBILITY_KEY)), _id(state_entries.get(member_key))
                )
                user_states[snapshot_id] = user_state
                self._user_states.put((snapshot_id, user_id), user_state)
        return user_states

    async def _prune_erased(
        self, user_id: UserID, visible: list[VisibleEvent]
    ) -> list[VisibleEvent]:
        senders = {
            event.stored.event.sender for event in visible if event.membership != event_types.JOIN
        } - {user_id}
        if not senders:
            return visible
        erased = await self._erased.erased_among(senders)
        if not erased:
            return visible
        return [
            event._replace(pruned=True)
            if event.membership != event_types.JOIN and event.stored.event.sender in erased
            else event
            for event in visible
        ]

    async def _read_current(self, room_id: RoomID) -> HistoryVisibility:
        return _history_visibility(await self._states.current_event(room_id, *_VISIBILITY_KEY))

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.state_changes is None and row.type != event_types.HISTORY_VISIBILITY:
                continue
            if any(change[0] == event_types.HISTORY_VISIBILITY for change in row.changes()):
                self._current.invalidate(RoomID(row.room_id))


class RoomView(NamedTuple):
    """What decides which events of a room a user sees.

    The user was joined until `joined_until`, and certainly sees all events after `certain_after`;
    messages sent before `hidden_before`, a time in ms, have expired.
    """

    joined_until: int
    certain_after: int
    hidden_before: int


def _history_visibility(stored: StoredEvent | None) -> HistoryVisibility:
    return visibility_in(None if stored is None else content_of(stored))


def _id(event_id: str | None) -> EventID | None:
    return None if event_id is None else EventID(event_id)
