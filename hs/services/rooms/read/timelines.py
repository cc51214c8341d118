"""Rooms' history as clients page through it.

Spec: client-server API, `/messages`, `/context`, `/event`, `/timestamp_to_event`.
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
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.pagination import FURTHEST, NOWHERE, Places, before, behind, place_of
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.visibility import Seen, Standing, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import relations, timelines
from hs.storage.rooms.timelines import Place, Placed

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 10
MAX_PASSES: Final = 5
TIME_WINDOW: Final = 100

Direction = Literal["b", "f"]


@attrs.frozen
class MessagesAsk:
    """What part of a room's history is asked for; tokens as the client gave them."""

    room_id: RoomID
    direction: Direction
    start: str | None = None
    to: str | None = None
    limit: int | None = None
    wanted: EventFilter = ANY_EVENT


@attrs.frozen
class MessagesPage:
    """One page of history. Without `end` there is no more of it; the last with events has one."""

    start: str
    chunk: orjson.Fragment
    end: str | None = None
    state: orjson.Fragment | None = None


@attrs.frozen
class ContextPage:
    """An event and what happened around it; `state` is that at the last event."""

    event: orjson.Fragment
    events_before: orjson.Fragment
    events_after: orjson.Fragment
    start: str
    end: str
    state: orjson.Fragment


@attrs.frozen
class FoundByTime:
    """The event closest to a time."""

    event_id: EventID
    origin_server_ts: int


@attrs.frozen
class Stretch:
    """Events found in one direction; `rest` is where to go on, None at the end of history."""

    seen: list[Seen]
    rest: TopologicalToken | None


@attrs.frozen
class Around:
    """What a user sees around an event, the nearest first, and tokens for what is beyond."""

    older: list[Seen]
    newer: list[Seen]
    start: str
    end: str


@attrs.define(eq=False)
class _Walk:
    """How far a search through history has come; `low` is excluded, `high` included."""

    room_id: RoomID
    backwards: bool
    low: Place
    high: Place


@attrs.frozen(eq=False)
class Timelines:
    """Reads rooms' history."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _visibility: Visibility
    _showing: Showing
    _places: Places

    async def messages(self, requester: Requester, ask: MessagesAsk) -> MessagesPage:
        """Give a page of a room's history.

        Raises: Forbidden, InvalidParam.
        """
        standing = await self._visibility.check_may_read(requester.user_id, ask.room_id)
        limit = _limit(ask)
        walk = await self._walk_of(ask, standing)
        start = ask.start or _encode(walk.high if walk.backwards else walk.low)
        if limit == 0 or ask.wanted.allows_nothing or not ask.wanted.allows_room(ask.room_id):
            return MessagesPage(start, json_array(()))
        stretch = await self._search(requester, walk, limit, ask.wanted)
        if ask.start is None and walk.backwards and stretch.seen:
            start = behind(stretch.seen[0].stored).encode()
        end = stretch.rest
        if end is None and ask.to is not None and stretch.seen:
            end = TopologicalToken(*(walk.low if walk.backwards else walk.high))
        if end is None and stretch.seen:
            # Whether this was all, the client learns from the next page, which is empty. Forwards
            # more may happen until then.
            last = stretch.seen[-1].stored
            end = before(last) if walk.backwards else behind(last)
        return MessagesPage(
            start,
            json_array(await self._showing.timeline(requester, stretch.seen)),
            None if end is None else end.encode(),
            await self._members_of(requester, stretch.seen, ask.wanted),
        )

    async def last_events(
        self, requester: Requester, room_id: RoomID, standing: Standing, limit: int
    ) -> Stretch:
        """Find the last events that a user may see of a room, the newest first."""
        walk = await self._walk_of(MessagesAsk(room_id, "b"), standing)
        return await self._search(requester, walk, limit, ANY_EVENT)

    async def event(
        self, requester: Requester, event_id: EventID, room_id: RoomID | None = None
    ) -> bytes:
        """Give one event.

        Raises: NotFound, also for events that the user may not see.
        """
        seen = await self.find_visible(requester, event_id, room_id)
        return (await self._showing.timeline(requester, (seen,)))[0]

    async def find_visible(
        self, requester: Requester, event_id: EventID, room_id: RoomID | None
    ) -> Seen:
        """Find one event that a user may see.

        Raises: NotFound.
        """
        stored = await self._events.get_one(event_id)
        if stored is not None and (room_id is None or stored.event.room_id == room_id):
            seen = await self._visibility.may_see_one(requester.user_id, stored)
            if seen is not None:
                return seen
        raise NotFound("Event not found")

    async def context(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        limit: int,
        wanted: EventFilter,
    ) -> ContextPage:
        """Give what happened around an event.

        Raises: Forbidden, NotFound.
        """
        await self._visibility.check_may_read(requester.user_id, room_id)
        seen = await self.find_visible(requester, event_id, room_id)
        limit = min(limit, MAX_LIMIT)
        around = await self.around(requester, seen, limit // 2, limit - limit // 2, wanted)
        older, newer = around.older, around.newer
        last = newer[-1] if newer else seen
        show = self._showing.timeline
        (event,) = await show(requester, (seen,))
        return ContextPage(
            orjson.Fragment(event),
            json_array(await show(requester, older)),
            json_array(await show(requester, newer)),
            around.start,
            around.end,
            await self._state_at(requester, last.stored, [seen, *older, *newer], wanted),
        )

    async def around(
        self,
        requester: Requester,
        seen: Seen,
        before_limit: int,
        after_limit: int,
        wanted: EventFilter = ANY_EVENT,
    ) -> Around:
        """Find what a user may see just before and just after an event that they see."""
        room_id = seen.stored.event.room_id
        standing = await self._visibility.standing(requester.user_id, room_id)
        low, high = await self._bounds(room_id, standing)
        here = place_of(seen.stored)
        just_before = (here[0], here[1] - 1)
        older = await self._search(
            requester, _Walk(room_id, True, low, just_before), before_limit, wanted
        )
        newer = await self._search(
            requester, _Walk(room_id, False, here, high), after_limit, wanted
        )
        first = older.seen[-1] if older.seen else seen
        last = newer.seen[-1] if newer.seen else seen
        return Around(
            older.seen,
            newer.seen,
            (older.rest or before(first.stored)).encode(),
            (newer.rest or behind(last.stored)).encode(),
        )

    async def at_time(
        self, requester: Requester, room_id: RoomID, ts: int, direction: Direction
    ) -> FoundByTime:
        """Find the visible event closest to a time, from there on or up to there.

        Raises: Forbidden, NotFound.
        """
        standing = await self._visibility.check_may_read(requester.user_id, room_id)
        found = await self._database.read(timelines.around_time, room_id, ts, TIME_WINDOW)
        if direction == "f":
            near = [one for one in found if one.origin_server_ts >= ts]
            near.sort(key=lambda one: (one.origin_server_ts, one.depth, one.stream_id))
        else:
            near = [one for one in found if one.origin_server_ts <= ts]
            near.sort(key=lambda one: (-one.origin_server_ts, -one.depth, -one.stream_id))
        events = await self._events.get(EventID(one.event_id) for one in near)
        seen = await self._visibility.filter_visible(requester.user_id, list(events.values()))
        if near and not seen:
            low, high = await self._bounds(room_id, standing)
            depth, number = near[-1].depth, near[-1].stream_id
            if direction == "f":
                walk = _Walk(room_id, False, max(low, (depth, number)), high)
            else:
                walk = _Walk(room_id, True, low, min(high, (depth, number - 1)))
            seen = await self._first_visible(requester, walk)
        if not seen:
            raise NotFound(f"Unable to find event from {ts} in direction {direction}")
        event = seen[0].stored.event
        return FoundByTime(event.event_id, event.origin_server_ts)

    async def _walk_of(self, ask: MessagesAsk, standing: Standing) -> _Walk:
        low, high = await self._bounds(ask.room_id, standing)
        start = None if ask.start is None else await self._places.parse(ask.room_id, ask.start)
        to = None if ask.to is None else await self._places.parse(ask.room_id, ask.to)
        backwards = ask.direction == "b"
        upper, lower = (start, to) if backwards else (to, start)
        return _Walk(
            ask.room_id,
            backwards,
            low if lower is None else max(low, lower),
            high if upper is None else min(high, upper),
        )

    async def _bounds(self, room_id: RoomID, standing: Standing) -> tuple[Place, Place]:
        own = standing.own
        if own is None or not standing.is_over:
            return NOWHERE, FURTHEST
        if await self._visibility.is_world_readable(room_id):
            return NOWHERE, FURTHEST
        left = await self._events.get_one(own.event_id)
        return NOWHERE, FURTHEST if left is None else place_of(left)

    async def _search(
        self, requester: Requester, walk: _Walk, limit: int, wanted: EventFilter
    ) -> Stretch:
        """Go through history until enough visible events are found, or for so many passes."""
        found: list[Seen] = []
        if limit == 0:
            return Stretch(found, None)
        read = timelines.newest if walk.backwards else timelines.oldest
        size = limit + 1
        for _ in range(MAX_PASSES):
            placed = await self._database.read(read, walk.room_id, walk.low, walk.high, size)
            exhausted = len(placed) < size
            chosen = await self._choose(placed, wanted)
            events = await self._events.get(EventID(one.event_id) for one in chosen)
            seen = await self._visibility.filter_visible(requester.user_id, list(events.values()))
            found.extend(seen[: limit - len(found)])
            if len(found) == limit:
                last = found[-1].stored
                if exhausted and placed[-1].event_id == last.event_id:
                    return Stretch(found, None)
                return Stretch(found, before(last) if walk.backwards else behind(last))
            if exhausted:
                return Stretch(found, None)
            end = placed[-1]
            if walk.backwards:
                walk.high = (end.depth, end.stream_id - 1)
            else:
                walk.low = (end.depth, end.stream_id)
            size = min(MAX_LIMIT, 4 * size)
        return Stretch(found, TopologicalToken(*(walk.high if walk.backwards else walk.low)))

    async def _first_visible(self, requester: Requester, walk: _Walk) -> list[Seen]:
        """Go past events that are hidden, as far as several searches reach."""
        for _ in range(MAX_PASSES):
            stretch = await self._search(requester, walk, 1, ANY_EVENT)
            if stretch.seen or stretch.rest is None:
                return stretch.seen
        return []

    async def _choose(self, placed: Sequence[Placed], wanted: EventFilter) -> Sequence[Placed]:
        if wanted.allows_everything:
            return placed
        chosen = [
            one
            for one in placed
            if wanted.allows_type(one.type)
            and wanted.allows_sender(one.sender)
            and (wanted.contains_url is None or wanted.contains_url is bool(one.contains_url))
        ]
        if not wanted.needs_children or not chosen:
            return chosen
        children: dict[str, list[tuple[str, str]]] = {}
        ids = [one.event_id for one in chosen]
        for parent, rel_type, sender in await self._database.read(relations.children, ids):
            children.setdefault(parent, []).append((rel_type, sender))
        return [one for one in chosen if wanted.allows_children(children.get(one.event_id, ()))]

    async def _members_of(
        self, requester: Requester, seen: Sequence[Seen], wanted: EventFilter
    ) -> orjson.Fragment | None:
        if not wanted.lazy_load_members or not seen:
            return None
        keys = _member_keys(seen)
        newest = max((one.stored for one in seen), key=place_of)
        entries = await self._states.of_snapshot(newest.snapshot_id or 0, keys)
        missing = [key for key in keys if key not in entries]
        later = await self._states.current_of_keys(newest.event.room_id, missing) if missing else {}
        events = await self._events.get([*entries.values(), *later.values()])
        return json_array(await self._showing.state(requester, list(events.values())))

    async def _state_at(
        self,
        requester: Requester,
        last: StoredEvent,
        seen: Sequence[Seen],
        wanted: EventFilter,
    ) -> orjson.Fragment:
        state: dict[StateKey, EventID] = dict(await self._states.at_snapshot(last.snapshot_id or 0))
        if last.event.state_key is not None:
            state[(last.event.type, last.event.state_key)] = last.event_id
        if wanted.lazy_load_members:
            members = set(_member_keys(seen))
            state = {
                key: event_id
                for key, event_id in state.items()
                if key[0] != event_types.MEMBER or key in members
            }
        events = await self._events.get(state.values())
        kept = [
            one
            for one in events.values()
            if wanted.allows(one.event.type, one.event.sender, one.event.content)
        ]
        return json_array(await self._showing.state(requester, kept))


def _limit(ask: MessagesAsk) -> int:
    limit = ask.limit
    if limit is None:
        limit = ask.wanted.limit_within(DEFAULT_LIMIT, MAX_LIMIT)
    if limit < 0:
        raise InvalidParam("limit must not be negative")
    return min(limit, MAX_LIMIT)


def _encode(place: Place) -> str:
    return TopologicalToken(max(place[0], 0), place[1]).encode()


def _member_keys(seen: Sequence[Seen]) -> list[StateKey]:
    senders = dict.fromkeys(one.stored.event.sender for one in seen)
    return [(event_types.MEMBER, sender) for sender in senders]
