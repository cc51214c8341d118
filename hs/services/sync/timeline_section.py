"""The timeline section of rooms, as bytes.

Members woken by the same events get the same bytes: what nothing personal is in is rendered once
and shared for a moment.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.core.relations import relation_of
from hs.core.tokens import TopologicalToken
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.services.rooms.read.rendering import Rendering, federation_form, with_fields
from hs.services.rooms.read.visibility import Seen, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import Plan, RoomTurn, Section, Turn
from hs.services.sync.timeline_range import Window

MAX_SHARED: Final = 2_000
SHARED_FOR_MS: Final = 2_000  # for `age` is part of what is shared
_THREAD: Final = "m.thread"
_JOIN: Final = "join"

_Key = tuple[RoomID, int, int, int, bool, int]


@attrs.define(eq=False)
class Timeline:
    """A timeline section: its JSON, and the events in it; `members` are those of its senders.

    `members` is None until somebody looked them up.
    """

    json: bytes
    shown: Sequence[StoredEvent]
    senders: frozenset[UserID]
    made_ms: int
    members: dict[UserID, EventID] | None = None


class RoomTimelines:
    """Renders timelines."""

    def __init__(
        self, events: EventStore, states: StateStore, visibility: Visibility, rendering: Rendering
    ) -> None:
        self._events = events
        self._states = states
        self._visibility = visibility
        self._rendering = rendering
        self._shared: LruCache[_Key, Timeline] = LruCache(
            "shared_timelines", max_entries=MAX_SHARED
        )
        self._flights: SingleFlight[_Key] = SingleFlight()

    async def render(
        self, turn: Turn, turns: Sequence[RoomTurn], windows: dict[RoomID, Window]
    ) -> dict[RoomID, Timeline]:
        """Give the timelines of rooms."""
        found: dict[RoomID, Timeline] = {}
        own: list[RoomTurn] = []
        for one in turns:
            window = windows[one.room_id]
            if not window.shown:
                found[one.room_id] = _empty(turn, window)
                continue
            shared = await self._find_shared(turn, one, window)
            if shared is None:
                own.append(one)
            else:
                found[one.room_id] = shared
        if own:
            found.update(await self._render_own(turn, own, windows))
        return found

    async def _find_shared(self, turn: Turn, one: RoomTurn, window: Window) -> Timeline | None:
        if not one.certain or turn.ignored or self._visibility.expires:
            return None
        shown = window.shown
        key = (
            one.room_id,
            shown[0].stream_id,
            shown[-1].stream_id,
            len(shown),
            window.limited,
            # Which of a sender's member events is wanted differs between the two forms.
            turn.plan.look if turn.request.state_after is None else -turn.plan.look,
        )
        timeline = self._shared.get(key)
        if timeline is None or turn.viewer.now_ms - timeline.made_ms > SHARED_FOR_MS:
            stored = self._impersonal([entry.event_id for entry in shown])
            if stored is None or any(entry.sender == turn.user_id for entry in shown):
                return None
            timeline = await self._flights.run(key, self._render_shared, turn, key, stored, window)
        return None if turn.user_id in timeline.senders else timeline

    def _impersonal(self, event_ids: Sequence[EventID]) -> list[StoredEvent] | None:
        found: list[StoredEvent] = []
        for event_id in event_ids:
            stored = self._events.get_nowait(event_id)
            if stored is None:
                return None
            relation = relation_of(stored.event.content)
            # The root's summary of a thread tells whether the reader took part in it.
            if relation is not None and relation.rel_type == _THREAD:
                return None
            found.append(stored)
        return found

    async def _render_shared(
        self, turn: Turn, key: _Key, stored: list[StoredEvent], window: Window
    ) -> Timeline:
        seen = [Seen(one, _JOIN) for one in stored]
        await self._rendering.prepare(stored, turn.viewer)
        timeline = self._timeline(turn, seen, window)
        self._shared.put(key, timeline)
        return timeline

    async def _render_own(
        self, turn: Turn, turns: Sequence[RoomTurn], windows: dict[RoomID, Window]
    ) -> dict[RoomID, Timeline]:
        ids = [entry.event_id for one in turns for entry in windows[one.room_id].shown]
        events = await self._events.get(ids)
        seen = await self._seen(turn, turns, windows, events)
        for one in turns:
            too_many = len(seen[one.room_id]) - turn.plan.limit
            if too_many > 0 and not one.alone:
                seen[one.room_id] = seen[one.room_id][too_many:]
                windows[one.room_id].limited = True
        await self._rendering.prepare(
            [one.stored for found in seen.values() for one in found], turn.viewer
        )
        return {
            room_id: self._timeline(turn, found, windows[room_id])
            if found
            else _empty(turn, windows[room_id])
            for room_id, found in seen.items()
        }

    async def _seen(
        self,
        turn: Turn,
        turns: Sequence[RoomTurn],
        windows: dict[RoomID, Window],
        events: dict[EventID, StoredEvent],
    ) -> dict[RoomID, list[Seen]]:
        """Leave out what the user may not see or does not want to; in the rooms' order."""
        seen: dict[RoomID, list[Seen]] = {one.room_id: [] for one in turns}
        judged: list[StoredEvent] = []
        for one in turns:
            stored = [
                events[entry.event_id]
                for entry in windows[one.room_id].shown
                if entry.event_id in events
            ]
            if one.certain:
                ignored = turn.ignored
                hidden_before = await self._visibility.hidden_before(one.room_id)
                seen[one.room_id] = [
                    Seen(event, _membership_at(event, turn.user_id))
                    for event in stored
                    if event.event.state_key is not None
                    or (
                        event.event.sender not in ignored
                        and event.event.origin_server_ts >= hidden_before
                    )
                ]
            elif one.alone:
                seen[one.room_id] = [Seen(event, one.own.membership) for event in stored]
            else:
                judged += stored
        if judged:
            for visible in await self._judge(turn, turns, judged):
                seen[visible.stored.event.room_id].append(visible)
        return seen

    async def _judge(
        self, turn: Turn, turns: Sequence[RoomTurn], events: Sequence[StoredEvent]
    ) -> list[Seen]:
        """Pick what the user may see, and the state that holds in the rooms they are in.

        Members know that state, whenever it was set. If it lacked in the timeline, clients would
        take a change for older than it is. Who left and was banned later is told of the ban:
        without it clients would go on showing a room that was only left.
        """
        own = {one.own.event_id for one in turns if one.section is Section.LEAVE}
        visible = await self._visibility.filter_visible(turn.user_id, events, known=own)
        if len(visible) == len(events):
            return visible
        views = {one.stored.event_id: one for one in visible}
        joined = {one.room_id for one in turns if one.section is Section.JOIN}
        hidden = [
            stored
            for stored in events
            if stored.event_id not in views
            and stored.event.state_key is not None
            and stored.event.room_id in joined
        ]
        known = await self._current_among(hidden)
        if not known:
            return visible
        shown = [stored for stored in hidden if stored.event_id in known]
        for one in await self._visibility.filter_visible(turn.user_id, shown, known=known):
            views[one.stored.event_id] = one
        return [views[stored.event_id] for stored in events if stored.event_id in views]

    async def _current_among(self, events: Sequence[StoredEvent]) -> set[EventID]:
        keys: dict[RoomID, list[StateKey]] = {}
        for stored in events:
            event = stored.event
            if event.state_key is not None:
                keys.setdefault(event.room_id, []).append((event.type, event.state_key))
        known: set[EventID] = set()
        for room_id, wanted in keys.items():
            known.update((await self._states.current_of_keys(room_id, wanted)).values())
        return known

    def _timeline(self, turn: Turn, seen: Sequence[Seen], window: Window) -> Timeline:
        rendering, viewer, plan = self._rendering, turn.viewer, turn.plan
        rendered = rendering.timeline_events(seen, viewer, room_id=False)
        if plan.shapes_events:
            rendered = [
                shaped(plan, one.stored, text) for one, text in zip(seen, rendered, strict=True)
            ]
        first = seen[0].stored
        prev_batch = TopologicalToken(first.event.depth, first.stream_id - 1).encode()
        if first.event.type == event_types.CREATE:
            # There is nothing to page back to. Clients expect a token, and those who use it
            # something behind it: they get the room from its end.
            prev_batch = turn.moment.text
        return Timeline(
            _json(rendered, prev_batch, limited=window.limited),
            [one.stored for one in seen],
            frozenset(one.stored.event.sender for one in seen),
            viewer.now_ms,
        )


def shaped(plan: Plan, stored: StoredEvent, rendered: bytes) -> bytes:
    """Give a rendered event the shape that the filter asks for."""
    if plan.filter.federation_format:
        rendered = federation_form(stored, rendered)
    if plan.filter.event_fields is not None:
        rendered = with_fields(rendered, plan.filter.event_fields)
    return rendered


def _membership_at(stored: StoredEvent, user_id: UserID) -> str:
    event = stored.event
    if event.state_key == user_id and event.type == "m.room.member":
        membership = event.content.get("membership")
        return membership if isinstance(membership, str) else _JOIN
    return _JOIN


def _empty(turn: Turn, window: Window) -> Timeline:
    since = turn.request.since
    prev_batch = turn.moment.text if since is None or window.limited else since
    return Timeline(_json((), prev_batch, limited=window.limited), (), frozenset(), 0)


def _json(rendered: Sequence[bytes], prev_batch: str, *, limited: bool) -> bytes:
    return b'{"events":[%b],"limited":%b,"prev_batch":%b}' % (
        b",".join(rendered),
        b"true" if limited else b"false",
        orjson.dumps(prev_batch),
    )
