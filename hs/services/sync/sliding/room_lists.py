"""Which rooms the windows of a request show, and what is wanted of each.

The rooms of a list are those the user is in or invited to, and those they were removed from, by
their last activity. Working this out costs as much as the user has rooms, so a result is kept
until something happens that may change it.

Spec: MSC4186, Lists and subscriptions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.rooms.store.recent_events import Tails
from hs.services.rooms.store.state_store import StateStore
from hs.services.sync.sliding.account_data_view import Personal
from hs.services.sync.sliding.connections import Connection
from hs.services.sync.sliding.request import (
    Form,
    ListAsked,
    RoomConfig,
    RoomFilters,
    SlidingRequest,
    config_of,
)
from hs.services.sync.sliding.room_activity import Activity, RoomFacts
from hs.storage.database import Database
from hs.storage.sync import sliding_sync
from hs.storage.sync.sliding_sync import ConnectionKey

MAX_BYTES: Final = 64 * 1024 * 1024

_ROOM_BYTES: Final = 300
_STAYING: Final = (event_types.JOIN, event_types.INVITE, event_types.KNOCK)


@attrs.define(eq=False)
class Windows:
    """The rooms that a request shows, by list and together.

    `facts` are those of all rooms listed; `needs_order` tells that some window is not of all
    rooms of its list. `settled_at` is the state of the connection that agrees with this.
    """

    counts: dict[str, int]
    by_list: dict[str, Sequence[RoomID]]
    subscribed: Sequence[RoomID]
    rooms: dict[RoomID, RoomConfig]
    facts: Mapping[RoomID, RoomFacts]
    needs_order: bool
    passing: bool  # a room is shown this once only
    settled_at: int = -1
    _lists_of: dict[RoomID, list[str]] | None = None

    def lists_of(self, room_id: RoomID) -> list[str]:
        """Name the lists that show a room."""
        if self._lists_of is None:
            self._lists_of = {}
            for name, room_ids in self.by_list.items():
                for one in room_ids:
                    self._lists_of.setdefault(one, []).append(name)
        return self._lists_of.get(room_id, [])


@attrs.frozen(eq=False)
class Asking:
    """Who asks, for what, and what decides the answer."""

    user_id: UserID
    request: SlidingRequest
    connection: Connection
    rooms: RoomsOf
    personal: Personal


@attrs.define(eq=False)
class _Kept:
    """Windows, and up to where it is known that nothing changed them."""

    asking: Asking
    windows: Windows
    upto: VectorPosition


class Lists:
    """Works out windows."""

    def __init__(
        self,
        database: Database,
        activity: Activity,
        events: EventStore,
        states: StateStore,
        visibility: Visibility,
        tails: Tails,
        excluded: frozenset[RoomID] = frozenset(),
    ) -> None:
        self._database = database
        self._activity = activity
        self._events = events
        self._states = states
        self._visibility = visibility
        self._tails = tails
        self._excluded = excluded
        self._kept: LruCache[ConnectionKey, _Kept] = LruCache(
            "sliding_windows", max_weight=MAX_BYTES, weigh=_weigh
        )

    async def windows(self, asking: Asking, upto: VectorPosition) -> Windows:
        """Give the windows of a request at a position of the feed."""
        key = asking.connection.key
        kept = self._kept.get(key)
        if kept is not None and self._holds(kept, asking):
            kept.upto = upto
            return kept.windows
        windows = await self._work_out(asking)
        # What was sent decides nothing but whether rooms are passing.
        kept_asking = attrs.evolve(asking, connection=Connection(key))
        self._kept.put(key, _Kept(kept_asking, windows, upto))
        return windows

    def _holds(self, kept: _Kept, asking: Asking) -> bool:
        before, windows = kept.asking, kept.windows
        if (
            before.rooms is not asking.rooms
            or before.personal is not asking.personal
            or windows.passing
            or before.request.form is not asking.request.form
            or before.request.lists != asking.request.lists
            or before.request.room_subscriptions != asking.request.room_subscriptions
        ):
            return False
        changed = self._tails.rooms_since(kept.upto)
        if changed is None:
            return False
        for room_id in changed & windows.facts.keys():
            facts = windows.facts[room_id]
            if windows.needs_order or self._activity.get_nowait(room_id) is not facts:
                return False
        return True

    async def _work_out(self, asking: Asking) -> Windows:
        shown, passing = await self._shown(asking)
        facts = dict(await self._facts(asking, shown))
        place_of = last_event_of if asking.request.form is Form.ACCEPTED else activity_of
        ordered = sorted(shown, key=lambda one: place_of(shown[one], facts[one]), reverse=True)
        windows = Windows({}, {}, (), {}, facts, needs_order=False, passing=passing)
        for name, asked in asking.request.lists.items():
            found = await self._filtered(asking, asked.filters, ordered, facts)
            windows.counts[name] = len(found)
            windows.by_list[name] = inside = _inside(asked, found)
            if len(inside) < len(found) or (asked.filters and asked.filters.spaces is not None):
                windows.needs_order = True
            _want(windows.rooms, inside, config_of(asked, asking.user_id))
        windows.subscribed = [one for one in asking.request.room_subscriptions if one in shown]
        for room_id in windows.subscribed:
            asked_room = asking.request.room_subscriptions[room_id]
            _want(windows.rooms, (room_id,), config_of(asked_room, asking.user_id))
        return windows

    async def _shown(self, asking: Asking) -> tuple[dict[RoomID, LocalMembership], bool]:
        """Give the rooms that may be listed; and whether one is only to tell that it is left."""
        shown: dict[RoomID, LocalMembership] = {}
        passing = False
        for room_id, own in asking.rooms.items():
            if room_id in self._excluded:
                continue
            if own.membership in _STAYING:
                is_invite = own.membership == event_types.INVITE
                if not is_invite or asking.personal.wants_invite(own.sender):
                    shown[room_id] = own
                continue
            sent = asking.connection.rooms.get(room_id)
            if sent is not None and sent.membership != own.membership:
                shown[room_id] = own
                passing = True
            elif own.sender != asking.user_id and not own.forgotten:
                standing = await self._visibility.standing(asking.user_id, room_id)
                if standing.joined_until:
                    shown[room_id] = own
        return shown, passing

    async def _facts(
        self, asking: Asking, shown: Mapping[RoomID, LocalMembership]
    ) -> Mapping[RoomID, RoomFacts]:
        facts = await self._activity.of(shown.keys())
        facts = {room_id: facts[room_id] for room_id in shown}
        # Of rooms that are not here, only what came with the invite is known.
        away = [
            room_id
            for room_id, own in shown.items()
            if own.membership in (event_types.INVITE, event_types.KNOCK)
            and not facts[room_id].is_known
        ]
        if away:
            found = await self._database.read(sliding_sync.stripped, away, asking.user_id)
            for room_id, stripped in found.items():
                facts[RoomID(room_id)] = _facts_of(orjson.loads(stripped))
        return facts

    async def _filtered(
        self,
        asking: Asking,
        filters: RoomFilters | None,
        ordered: Sequence[RoomID],
        facts: Mapping[RoomID, RoomFacts],
    ) -> Sequence[RoomID]:
        if filters is None or filters == RoomFilters():
            return ordered
        children = None
        if filters.spaces is not None:
            children = await self._children(asking, filters.spaces)
        return [
            room_id
            for room_id in ordered
            if (children is None or room_id in children)
            and _passes(filters, room_id, facts[room_id], asking)
        ]

    async def _children(self, asking: Asking, spaces: Iterable[str]) -> set[RoomID]:
        children: set[RoomID] = set()
        for space in spaces:
            own = asking.rooms.get(RoomID(space))
            if own is None or own.membership != event_types.JOIN:
                continue
            found = await self._states.current_of_types(RoomID(space), (event_types.SPACE_CHILD,))
            stored = await self._events.get(found.values())
            for (_, room_id), event_id in found.items():
                # Without servers to join it by, a child counts as removed.
                if event_id in stored and isinstance(content_of(stored[event_id]).get("via"), list):
                    children.add(RoomID(room_id))
        return children


def activity_of(own: LocalMembership, facts: RoomFacts) -> int:
    """Give a room's `bump_stamp`: its last activity, or the user's own in rooms not joined."""
    if own.membership != event_types.JOIN:
        return own.stream_id
    return facts.bump or own.stream_id


def last_event_of(own: LocalMembership, facts: RoomFacts) -> int:
    """Give a room's last event of any type, or the user's own in rooms not joined."""
    if own.membership != event_types.JOIN:
        return own.stream_id
    return max(facts.last, own.stream_id)


def _weigh(key: ConnectionKey, kept: _Kept) -> int:
    return 2000 + len(kept.windows.facts) * _ROOM_BYTES


def _inside(asked: ListAsked, found: Sequence[RoomID]) -> Sequence[RoomID]:
    windows = asked.windows()
    if windows is None:
        return found
    if len(windows) == 1:
        start, end = windows[0]
        return found if start == 0 and end >= len(found) else found[start : end + 1]
    places = sorted({n for start, end in windows for n in range(start, min(end + 1, len(found)))})
    return [found[n] for n in places]


def _want(rooms: dict[RoomID, RoomConfig], room_ids: Iterable[RoomID], config: RoomConfig) -> None:
    for room_id in room_ids:
        held = rooms.get(room_id)
        rooms[room_id] = config if held is None else held.union(config)


def _passes(filters: RoomFilters, room_id: RoomID, facts: RoomFacts, asking: Asking) -> bool:
    personal = asking.personal
    if filters.is_dm is not None and filters.is_dm != (room_id in personal.direct):
        return False
    if filters.is_encrypted is not None and filters.is_encrypted != facts.is_encrypted:
        return False
    is_invited = asking.rooms[room_id].membership == event_types.INVITE
    if filters.is_invite is not None and filters.is_invite != is_invited:
        return False
    if filters.room_types is not None and facts.room_type not in filters.room_types:
        return False
    if filters.not_room_types is not None and facts.room_type in filters.not_room_types:
        return False
    tags = personal.tags.get(room_id, frozenset())
    if filters.tags is not None and tags.isdisjoint(filters.tags):
        return False
    return filters.not_tags is None or tags.isdisjoint(filters.not_tags)


def _facts_of(stripped: Any) -> RoomFacts:
    facts = RoomFacts()
    for event in stripped if isinstance(stripped, list) else ():
        if not isinstance(event, dict) or event.get("state_key") != "":
            continue
        content = event.get("content")
        if event.get("type") == event_types.ENCRYPTION:
            facts.is_encrypted = True
        elif event.get("type") == event_types.CREATE and isinstance(content, dict):
            room_type = content.get("type")
            facts.room_type = room_type if isinstance(room_type, str) else None
    return facts
