"""The rooms that a request selects by its lists and subscriptions, with their parameters.

A list contains the rooms that the user has joined, was invited to or has knocked on, and those from
which the user was removed, in the order of their last activity.

Computing this takes time proportional to the number of the user's rooms, so the last result of each
connection is cached. Rules for using it again:

- The user's rooms and the view of the user's account data are the same objects, which any change
  replaces, and the request has the same lists, subscriptions and variant.
- The properties of all changed rooms are the same objects in memory.
- No room is listed only to report that the user left it; that happens once.
- If a list depends on the order of rooms (it does not include all its rooms), the rooms in which
  events arrived are moved, and the others stay in the order that they had. The sort keys are those
  of the moment of sorting: the properties of a room change before the room is moved.
- With a `spaces` filter, no event has arrived in any room that may be listed. A change of a space's
  children is an event in the space, which is itself among these rooms.

The result also stores the connection state that it was last sent with. If a request continues from
that state, only changed rooms need to be examined.

Spec: MSC4186, Lists and subscriptions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.rooms.store.state_store import StateStore
from hs.services.sync.sliding.connections import SlidingConnection
from hs.services.sync.sliding.request import (
    RoomListFilters,
    SlidingSyncVariant,
    pattern_count,
)
from hs.services.sync.sliding.requested_rooms import (
    RequestedRooms,
    RoomOrder,
    SlidingSyncContext,
    select_rooms,
    uses_spaces,
)
from hs.services.sync.sliding.room_activity import RoomActivity, RoomListProperties
from hs.storage.database import Database
from hs.storage.sync import sliding_sync
from hs.storage.sync.sliding_sync import ConnectionKey

MAX_BYTES: Final = 64 * 1024 * 1024

_ROOM_BYTES: Final = 450
_LIST_BYTES: Final = 1000
_PATTERN_BYTES: Final = 250
_LISTED_BYTES: Final = 16
_PRESENT: Final = (event_types.JOIN, event_types.INVITE, event_types.KNOCK)


@attrs.define(eq=False)
class _CachedLists:
    """A cached result, and the position up to which it is known to be valid."""

    context: SlidingSyncContext
    requested: RequestedRooms
    order: RoomOrder
    upto: VectorPosition
    weight: int


class RoomLists:
    """The cache and computation of room lists."""

    def __init__(
        self,
        database: Database,
        activity: RoomActivity,
        events: EventStore,
        states: StateStore,
        visibility: Visibility,
        tails: RecentEvents,
        excluded: frozenset[RoomID] = frozenset(),
    ) -> None:
        self._database = database
        self._activity = activity
        self._events = events
        self._states = states
        self._visibility = visibility
        self._tails = tails
        self._excluded = excluded
        self._cache: LruCache[ConnectionKey, _CachedLists] = LruCache(
            "sliding_lists", max_weight=MAX_BYTES, weigh=_weigh
        )

    @property
    def cache(self) -> LruCache[ConnectionKey, _CachedLists]:
        """The cache of results, by connection."""
        return self._cache

    async def windows(self, context: SlidingSyncContext, upto: VectorPosition) -> RequestedRooms:
        """Return the rooms that a request selects at a position of the feed."""
        key = context.connection.key
        cached = self._cache.get(key)
        if cached is not None and self._update(cached, context):
            cached.upto = upto
            return cached.requested
        requested, order = await self._compute(context)
        # Do not keep the connection state alive. The result depends on it only for rooms that are
        # listed once, and then it is not used again.
        cached_context = attrs.evolve(context, connection=SlidingConnection(key))
        self._cache.put(
            key,
            _CachedLists(
                cached_context, requested, order, upto, _weight(cached_context, requested, order)
            ),
        )
        return requested

    def _update(self, cached: _CachedLists, context: SlidingSyncContext) -> bool:
        """Update a cached result by what has happened; return False if it is not valid."""
        cached_context, requested = cached.context, cached.requested
        if (
            cached_context.rooms is not context.rooms
            or cached_context.account_data is not context.account_data
            or requested.reports_leaving
            or cached_context.request.form is not context.request.form
            or cached_context.request.lists != context.request.lists
            or cached_context.request.room_subscriptions != context.request.room_subscriptions
        ):
            return False
        recent = self._tails.rooms_since(cached.upto)
        if recent is None:
            return False
        changed = recent & requested.facts.keys()
        if any(self._activity.get_nowait(key) is not requested.facts[key] for key in changed):
            return False
        if not changed or not requested.depends_on_order:
            return True
        if any(uses_spaces(parameters) for parameters in context.request.lists.values()):
            return False
        sort_key = _sort_key_of(context)
        for room_id in changed:
            key = sort_key(context.rooms[room_id], requested.facts[room_id])
            cached.order.move(room_id, key)
        cached.requested = select_rooms(
            context, cached.order, requested.facts, requested.subscribed
        )
        if cached.requested.rooms == requested.rooms:
            cached.requested.sent_at = requested.sent_at
        return True

    async def _compute(self, context: SlidingSyncContext) -> tuple[RequestedRooms, RoomOrder]:
        shown, reports_leaving = await self._listable_rooms(context)
        facts = dict(await self._load_facts(context, shown))
        sort_key = _sort_key_of(context)
        keys = {room_id: sort_key(own, facts[room_id]) for room_id, own in shown.items()}
        ordered = sorted(shown, key=keys.__getitem__, reverse=True)
        order = RoomOrder(keys, {})
        for name, parameters in context.request.lists.items():
            matching = await self._filter_rooms(context, parameters.filters, ordered, facts)
            order.by_list[name] = list(matching)
        subscribed = [room_id for room_id in context.request.room_subscriptions if room_id in shown]
        requested = select_rooms(context, order, facts, subscribed)
        requested.reports_leaving = reports_leaving
        return requested, order

    async def _listable_rooms(
        self, context: SlidingSyncContext
    ) -> tuple[dict[RoomID, LocalMembership], bool]:
        """Return the rooms that may be listed, and whether any is listed only to report leaving."""
        shown: dict[RoomID, LocalMembership] = {}
        reports_leaving = False
        for room_id, own in context.rooms.items():
            if room_id in self._excluded:
                continue
            if own.membership in _PRESENT:
                is_invite = own.membership == event_types.INVITE
                if not is_invite or context.account_data.wants_invite(own.sender):
                    shown[room_id] = own
                continue
            sent = context.connection.rooms.get(room_id)
            if sent is not None and sent.membership != own.membership:
                shown[room_id] = own
                reports_leaving = True
            elif own.sender != context.user_id and not own.forgotten:
                access = await self._visibility.access(context.user_id, room_id)
                if access.joined_until:
                    shown[room_id] = own
        return shown, reports_leaving

    async def _load_facts(
        self, context: SlidingSyncContext, shown: Mapping[RoomID, LocalMembership]
    ) -> Mapping[RoomID, RoomListProperties]:
        facts = await self._activity.of(shown.keys())
        facts = {room_id: facts[room_id] for room_id in shown}
        # Of rooms without state on this server, only the stripped state is known.
        without_state = [
            room_id
            for room_id, own in shown.items()
            if own.membership in (event_types.INVITE, event_types.KNOCK)
            and not facts[room_id].has_state
        ]
        if without_state:
            stripped_states = await self._database.read(
                sliding_sync.load_stripped_state, without_state, context.user_id
            )
            for room_id, stripped in stripped_states.items():
                facts[RoomID(room_id)] = _facts_of(orjson.loads(stripped))
        return facts

    async def _filter_rooms(
        self,
        context: SlidingSyncContext,
        filters: RoomListFilters | None,
        ordered: Sequence[RoomID],
        facts: Mapping[RoomID, RoomListProperties],
    ) -> Sequence[RoomID]:
        if filters is None or filters == RoomListFilters():
            return ordered
        children = None
        if filters.spaces is not None:
            children = await self._space_children(context, filters.spaces)
        return [
            room_id
            for room_id in ordered
            if (children is None or room_id in children)
            and _matches(filters, room_id, facts[room_id], context)
        ]

    async def _space_children(
        self, context: SlidingSyncContext, spaces: Iterable[str]
    ) -> set[RoomID]:
        children: set[RoomID] = set()
        for space in frozenset(spaces):
            own = context.rooms.get(RoomID(space))
            if own is None or own.membership != event_types.JOIN:
                continue
            child_events = await self._states.current_of_types(
                RoomID(space), (event_types.SPACE_CHILD,)
            )
            stored = await self._events.get(child_events.values())
            for (_, room_id), event_id in child_events.items():
                # A child event without `via` means that the room was removed from the space.
                if event_id in stored and isinstance(content_of(stored[event_id]).get("via"), list):
                    children.add(RoomID(room_id))
        return children


def bump_stamp_of(own: LocalMembership, facts: RoomListProperties) -> int:
    """Return a room's `bump_stamp`: its last activity, or the user's membership if not joined."""
    if own.membership != event_types.JOIN:
        return own.stream_id
    return facts.bump_stream_id or own.stream_id


def last_stream_id_of(own: LocalMembership, facts: RoomListProperties) -> int:
    """Return the stream ID of a room's last event, or of the user's membership if not joined."""
    if own.membership != event_types.JOIN:
        return own.stream_id
    return max(facts.last_stream_id, own.stream_id)


def _sort_key_of(
    context: SlidingSyncContext,
) -> Callable[[LocalMembership, RoomListProperties], int]:
    if context.request.form is SlidingSyncVariant.ACCEPTED:
        return last_stream_id_of
    return bump_stamp_of


def _weigh(key: ConnectionKey, cached: _CachedLists) -> int:
    return cached.weight


def _weight(context: SlidingSyncContext, requested: RequestedRooms, order: RoomOrder) -> int:
    """Return about how many bytes a cached result takes."""
    request = context.request
    # Rooms that are in different lists have different sets of patterns.
    sets = {id(parameters): len(parameters.required) for parameters in requested.rooms.values()}
    return (
        2000
        + len(requested.facts) * _ROOM_BYTES
        + sum(map(len, order.by_list.values())) * _LISTED_BYTES
        + (len(request.lists) + len(request.room_subscriptions)) * _LIST_BYTES
        + (pattern_count(request) + sum(sets.values())) * _PATTERN_BYTES
    )


def _matches(
    filters: RoomListFilters,
    room_id: RoomID,
    facts: RoomListProperties,
    context: SlidingSyncContext,
) -> bool:
    account_data = context.account_data
    if filters.is_dm is not None and filters.is_dm != (room_id in account_data.direct):
        return False
    if filters.is_encrypted is not None and filters.is_encrypted != facts.is_encrypted:
        return False
    is_invited = context.rooms[room_id].membership == event_types.INVITE
    if filters.is_invite is not None and filters.is_invite != is_invited:
        return False
    if filters.room_types is not None and facts.room_type not in filters.room_types:
        return False
    if filters.not_room_types is not None and facts.room_type in filters.not_room_types:
        return False
    tags = account_data.tags.get(room_id, frozenset())
    if filters.tags is not None and tags.isdisjoint(filters.tags):
        return False
    return filters.not_tags is None or tags.isdisjoint(filters.not_tags)


def _facts_of(stripped: Any) -> RoomListProperties:
    facts = RoomListProperties()
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
