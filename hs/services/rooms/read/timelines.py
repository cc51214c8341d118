"""The history of rooms, as clients page through it.

Rules:

- History is ordered by (depth, stream ID). A position lies between events, so a page ends exactly
  where the next one begins: `low` is excluded, `high` is included, and a token names the position
  just before or after an event.
- A user who has left sees nothing after the member event with which they are out of the room,
  unless the history is world-readable; within these bounds every event is still checked for
  visibility.
- Events that are hidden or filtered out may make a page empty. A request reads at most MAX_PASSES
  batches of growing size, then returns a token to continue from. Only a page without `end` is the
  last one.

Spec: client-server API, `/messages`, `/context`, `/event`.
"""

from collections.abc import Sequence
from typing import Final, Literal

import attrs
import orjson

from hs.core.errors import InvalidParam, NotFound
from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.filters import ANY_EVENT, EventFilter
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.core.tokens import TopologicalToken
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.older_history import OlderHistory
from hs.services.rooms.read.pagination import (
    HISTORY_END,
    HISTORY_START,
    TokenPositions,
    position_of,
    token_after,
    token_before,
)
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.visibility import OriginAccess, Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import relations, timelines
from hs.storage.rooms.timelines import HistoryPosition, TimelineEvent

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 10
MAX_PASSES: Final = 5
MAX_FILLS: Final = 3  # how often other servers are asked for older events, for a page

Direction = Literal["b", "f"]


@attrs.frozen
class MessagesRequest:
    """A request for a part of a room's history; tokens as the client sent them."""

    room_id: RoomID
    direction: Direction
    start: str | None = None
    to: str | None = None
    limit: int | None = None
    event_filter: EventFilter = ANY_EVENT


@attrs.frozen
class MessagesPage:
    """One page of history; without `end` it is known to be the last."""

    start: str
    chunk: orjson.Fragment
    end: str | None = None
    state: orjson.Fragment | None = None


@attrs.frozen
class ContextPage:
    """An event and the events around it; `state` is that at the last of them."""

    event: orjson.Fragment
    events_before: orjson.Fragment
    events_after: orjson.Fragment
    start: str
    end: str
    state: orjson.Fragment


@attrs.frozen
class HistoryPage:
    """Events in one direction; `next_token` is where to continue, None at the end of history."""

    events: list[VisibleEvent]
    next_token: TopologicalToken | None


@attrs.frozen
class SurroundingEvents:
    """The visible events around an event, the nearest first, and tokens to continue from."""

    older: list[VisibleEvent]
    newer: list[VisibleEvent]
    start: str
    end: str


@attrs.define(eq=False)
class _Walk:
    """The range of history still to be searched; `low` is excluded, `high` included."""

    room_id: RoomID
    backwards: bool
    low: HistoryPosition
    high: HistoryPosition


@attrs.frozen(eq=False)
class Timelines:
    """Reads the history of rooms."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _visibility: Visibility
    _serializer: EventSerializer
    _positions: TokenPositions
    _older: OlderHistory

    async def messages(self, requester: Requester, request: MessagesRequest) -> MessagesPage:
        """Return a page of a room's history.

        Raises: Forbidden, InvalidParam.
        """
        access = await self._visibility.check_may_read(requester.user_id, request.room_id)
        limit = _limit(request)
        walk = await self._walk_of(request, access)
        start = request.start or _encode(walk.high if walk.backwards else walk.low)
        if (
            limit == 0
            or request.event_filter.allows_nothing
            or not request.event_filter.allows_room(request.room_id)
        ):
            return MessagesPage(start, json_array(()))
        timeline = await self._search_with_gaps(requester, walk, limit, request.event_filter)
        if request.start is None and walk.backwards and timeline.events:
            start = token_after(timeline.events[0].stored).encode()
        end = timeline.next_token
        if end is None and request.to is not None and timeline.events:
            end = TopologicalToken(*(walk.low if walk.backwards else walk.high))
        if end is None and timeline.events:
            # The client learns from the next page, which is empty, that this was the last one.
            # Forwards, more events may arrive until then.
            last = timeline.events[-1].stored
            end = token_before(last) if walk.backwards else token_after(last)
        return MessagesPage(
            start,
            json_array(await self._serializer.timeline(requester, timeline.events)),
            None if end is None else end.encode(),
            await self._members_of_senders(requester, timeline.events, request.event_filter),
        )

    async def last_events(
        self, requester: Requester, room_id: RoomID, access: OriginAccess, limit: int
    ) -> HistoryPage:
        """Return the last events of a room that a user may see, the newest first."""
        walk = await self._walk_of(MessagesRequest(room_id, "b"), access)
        return await self._search(requester, walk, limit, ANY_EVENT)

    async def event(
        self, requester: Requester, event_id: EventID, room_id: RoomID | None = None
    ) -> bytes:
        """Return one event as JSON.

        Raises: NotFound, also for events that the user may not see.
        """
        visible = await self.find_visible(requester, event_id, room_id)
        return (await self._serializer.timeline(requester, (visible,)))[0]

    async def find_visible(
        self, requester: Requester, event_id: EventID, room_id: RoomID | None
    ) -> VisibleEvent:
        """Return one event that a user may see.

        Raises: NotFound.
        """
        stored = await self._events.get_one(event_id)
        if stored is not None and (room_id is None or stored.event.room_id == room_id):
            visible = await self._visibility.filter_one(requester.user_id, stored)
            if visible is not None:
                return visible
        raise NotFound("Event not found")

    async def context(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        limit: int,
        event_filter: EventFilter,
    ) -> ContextPage:
        """Return an event with the events around it.

        Raises: Forbidden, NotFound.
        """
        await self._visibility.check_may_read(requester.user_id, room_id)
        visible = await self.find_visible(requester, event_id, room_id)
        limit = min(limit, MAX_LIMIT)
        around = await self.around(requester, visible, limit // 2, limit - limit // 2, event_filter)
        older, newer = around.older, around.newer
        last = newer[-1] if newer else visible
        serialize = self._serializer.timeline
        (event,) = await serialize(requester, (visible,))
        return ContextPage(
            event=orjson.Fragment(event),
            events_before=json_array(await serialize(requester, older)),
            events_after=json_array(await serialize(requester, newer)),
            start=around.start,
            end=around.end,
            state=await self._state_at(
                requester, last.stored, [visible, *older, *newer], event_filter
            ),
        )

    async def around(
        self,
        requester: Requester,
        visible: VisibleEvent,
        before_limit: int,
        after_limit: int,
        event_filter: EventFilter = ANY_EVENT,
    ) -> SurroundingEvents:
        """Return the events just before and after a visible event that a user may see."""
        room_id = visible.stored.event.room_id
        access = await self._visibility.access(requester.user_id, room_id)
        low, high = await self._bounds(room_id, access)
        position = position_of(visible.stored)
        just_before = (position[0], position[1] - 1)
        older = await self._search(
            requester, _Walk(room_id, True, low, just_before), before_limit, event_filter
        )
        newer = await self._search(
            requester, _Walk(room_id, False, position, high), after_limit, event_filter
        )
        first = older.events[-1] if older.events else visible
        last = newer.events[-1] if newer.events else visible
        return SurroundingEvents(
            older.events,
            newer.events,
            (older.next_token or token_before(first.stored)).encode(),
            (newer.next_token or token_after(last.stored)).encode(),
        )

    async def _walk_of(self, request: MessagesRequest, access: OriginAccess) -> _Walk:
        low, high = await self._bounds(request.room_id, access)
        start = (
            None
            if request.start is None
            else await self._positions.parse(request.room_id, request.start)
        )
        to = (
            None if request.to is None else await self._positions.parse(request.room_id, request.to)
        )
        backwards = request.direction == "b"
        upper, lower = (start, to) if backwards else (to, start)
        return _Walk(
            request.room_id,
            backwards,
            low if lower is None else max(low, lower),
            high if upper is None else min(high, upper),
        )

    async def _bounds(
        self, room_id: RoomID, access: OriginAccess
    ) -> tuple[HistoryPosition, HistoryPosition]:
        own = access.own
        if own is None or not access.has_left:
            return HISTORY_START, HISTORY_END
        if await self._visibility.is_world_readable(room_id):
            return HISTORY_START, HISTORY_END
        latest = await self._events.get_one(own.event_id)
        return HISTORY_START, HISTORY_END if latest is None else position_of(latest)

    async def _search_with_gaps(
        self, requester: Requester, walk: _Walk, limit: int, event_filter: EventFilter
    ) -> HistoryPage:
        """Search backwards, and ask other servers for what is missing in the page."""
        page = await self._search(requester, attrs.evolve(walk), limit, event_filter)
        for _ in range(MAX_FILLS if walk.backwards else 0):
            low = 0 if page.next_token is None else page.next_token.depth
            report = await self._older.fill(walk.room_id, (max(low, walk.low[0]), walk.high[0]))
            if report.late_at is not None:
                return _page_above(page, report.late_at)
            if not report.changed:
                break
            page = await self._search(requester, attrs.evolve(walk), limit, event_filter)
        return page

    async def _search(
        self, requester: Requester, walk: _Walk, limit: int, event_filter: EventFilter
    ) -> HistoryPage:
        """Read history until enough visible events are found, or MAX_PASSES batches were read."""
        visible: list[VisibleEvent] = []
        if limit == 0:
            return HistoryPage(visible, None)
        read = timelines.newest if walk.backwards else timelines.oldest
        size = limit + 1
        for _ in range(MAX_PASSES):
            batch = await self._database.read(read, walk.room_id, walk.low, walk.high, size)
            exhausted = len(batch) < size
            chosen = await self._filter(batch, event_filter)
            events = await self._events.get(EventID(each.event_id) for each in chosen)
            batch_visible = await self._visibility.filter_visible(
                requester.user_id, list(events.values())
            )
            visible.extend(batch_visible[: limit - len(visible)])
            if len(visible) == limit:
                last = visible[-1].stored
                if exhausted and batch[-1].event_id == last.event_id:
                    return HistoryPage(visible, None)
                return HistoryPage(
                    visible, token_before(last) if walk.backwards else token_after(last)
                )
            if exhausted:
                return HistoryPage(visible, None)
            end = batch[-1]
            if walk.backwards:
                walk.high = (end.depth, end.stream_id - 1)
            else:
                walk.low = (end.depth, end.stream_id)
            size = min(MAX_LIMIT, 4 * size)
        return HistoryPage(visible, TopologicalToken(*(walk.high if walk.backwards else walk.low)))

    async def _filter(
        self, batch: Sequence[TimelineEvent], event_filter: EventFilter
    ) -> Sequence[TimelineEvent]:
        if event_filter.allows_everything:
            return batch
        chosen = [
            event
            for event in batch
            if event_filter.allows_type(event.type)
            and event_filter.allows_sender(event.sender)
            and event_filter.contains_url in (None, bool(event.contains_url))
        ]
        if not event_filter.needs_children or not chosen:
            return chosen
        children: dict[str, list[tuple[str, str]]] = {}
        ids = [event.event_id for event in chosen]
        for parent, rel_type, sender in await self._database.read(relations.list_children, ids):
            children.setdefault(parent, []).append((rel_type, sender))
        return [
            event
            for event in chosen
            if event_filter.allows_children(children.get(event.event_id, ()))
        ]

    async def _members_of_senders(
        self, requester: Requester, visible: Sequence[VisibleEvent], event_filter: EventFilter
    ) -> orjson.Fragment | None:
        if not event_filter.lazy_load_members or not visible:
            return None
        keys = _member_keys(visible)
        newest = max((each.stored for each in visible), key=position_of)
        entries = await self._states.snapshot_entries(newest.snapshot_id or 0, keys)
        missing = [key for key in keys if key not in entries]
        current = (
            await self._states.current_of_keys(newest.event.room_id, missing) if missing else {}
        )
        events = await self._events.get([*entries.values(), *current.values()])
        return json_array(await self._serializer.state(requester, list(events.values())))

    async def _state_at(
        self,
        requester: Requester,
        last: StoredEvent,
        visible: Sequence[VisibleEvent],
        event_filter: EventFilter,
    ) -> orjson.Fragment:
        state: dict[StateKey, EventID] = dict(await self._states.at_snapshot(last.snapshot_id or 0))
        if last.event.state_key is not None:
            state[(last.event.type, last.event.state_key)] = last.event_id
        if event_filter.lazy_load_members:
            members = set(_member_keys(visible))
            state = {
                key: event_id
                for key, event_id in state.items()
                if key[0] != event_types.MEMBER or key in members
            }
        events = await self._events.get(state.values())
        filtered = [
            stored
            for stored in events.values()
            if event_filter.allows(stored.event.type, stored.event.sender, stored.event.content)
        ]
        return json_array(await self._serializer.state(requester, filtered))


def _limit(request: MessagesRequest) -> int:
    limit = request.limit
    if limit is None:
        limit = request.event_filter.limit_within(DEFAULT_LIMIT, MAX_LIMIT)
    if limit < 0:
        raise InvalidParam("limit must not be negative")
    return min(limit, MAX_LIMIT)


def _page_above(page: HistoryPage, depth: int) -> HistoryPage:
    """Return the part of a page above a gap, from which the client continues later."""
    events = [visible for visible in page.events if visible.stored.event.depth >= depth]
    return HistoryPage(events, TopologicalToken(depth, -HISTORY_END[1]))


def _encode(position: HistoryPosition) -> str:
    return TopologicalToken(max(position[0], 0), position[1]).encode()


def _member_keys(visible: Sequence[VisibleEvent]) -> list[StateKey]:
    senders = dict.fromkeys(each.stored.event.sender for each in visible)
    return [(event_types.MEMBER, sender) for sender in senders]
