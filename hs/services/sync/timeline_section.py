"""The timeline sections of rooms, rendered to bytes.

Rules:

- A timeline without personal content is rendered once and shared by all members who are woken by
  the same events. It is shared only for `SHARED_FOR_MS`, because it contains the events' `age`.
- A timeline is rendered for the user alone if it may differ between users: the user sent one of the
  events (transaction IDs), an event is in a thread (summaries say whether the user took part), the
  user ignores anyone, events expire, or the user was not joined during the whole range.
- The key of a shared timeline has the range, the rendering ID of the filter, and the form of the
  state section, because the cached member events of the senders depend on the latter.
- Concurrent requests for the same key render it once.
- Of a room that is new to the client, messages are rendered from the rows that were read, neither
  parsed nor cached, if the user certainly may see all of them: nobody else needs them soon.
- Events that the user may not see are left out, with two exceptions: the event that ended the
  user's membership, and state events that are part of the current state of a joined room.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
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
from hs.services.rooms.read.event_forms import federation_form, with_fields
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import (
    CompiledFilter,
    MembershipSection,
    RoomSyncContext,
    SyncContext,
)
from hs.services.sync.timeline_range import TimelineRange
from hs.storage.sync.room_changes import TimelineRow

MAX_SHARED: Final = 2_000
SHARED_FOR_MS: Final = 2_000  # short, because shared timelines contain `age`
_THREAD: Final = "m.thread"
_JOIN: Final = "join"

_Key = tuple[RoomID, int, int, int, bool, int]


@attrs.define(eq=False)
class RenderedTimeline:
    """A rendered timeline section, the IDs of its events, and the state events in it."""

    json: bytes
    event_ids: Sequence[EventID]
    state: Sequence[StoredEvent]
    senders: frozenset[UserID]
    made_ms: int
    members: dict[UserID, EventID] | None = None
    """The member events of the senders; None until they are looked up."""

    @property
    def count(self) -> int:
        """The number of events."""
        return len(self.event_ids)


class TimelineSection:
    """The renderer of timeline sections."""

    def __init__(
        self,
        events: EventStore,
        states: StateStore,
        visibility: Visibility,
        rendering: EventRenderer,
    ) -> None:
        self._events = events
        self._states = states
        self._visibility = visibility
        self._rendering = rendering
        self._shared: LruCache[_Key, RenderedTimeline] = LruCache(
            "shared_timelines", max_entries=MAX_SHARED
        )
        self._flights: SingleFlight[_Key] = SingleFlight()

    async def render(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        ranges: dict[RoomID, TimelineRange],
    ) -> dict[RoomID, RenderedTimeline]:
        """Return the timeline of each room.

        Marks a range as limited if more events than the limit turn out to be visible.
        """
        timelines: dict[RoomID, RenderedTimeline] = {}
        personal: list[RoomSyncContext] = []
        for room in room_contexts:
            timeline_range = ranges[room.room_id]
            if not timeline_range.shown:
                timelines[room.room_id] = _empty(context, timeline_range)
                continue
            shared = await self._find_shared(context, room, timeline_range)
            if shared is None:
                personal.append(room)
            else:
                timelines[room.room_id] = shared
        if not personal:
            return timelines
        timelines.update(await self._render_rows(context, personal, ranges))
        personal = [room for room in personal if room.room_id not in timelines]
        if personal:
            timelines.update(await self._render_personal(context, personal, ranges))
        return timelines

    async def _find_shared(
        self, context: SyncContext, room: RoomSyncContext, timeline_range: TimelineRange
    ) -> RenderedTimeline | None:
        if not room.always_joined or context.ignored or self._visibility.expires:
            return None
        shown = timeline_range.shown
        key = (
            room.room_id,
            shown[0].stream_id,
            shown[-1].stream_id,
            len(shown),
            timeline_range.limited,
            # The two forms of the state section need different member events of a sender.
            context.compiled_filter.rendering_id
            if context.request.state_after is None
            else -context.compiled_filter.rendering_id,
        )
        timeline = self._shared.get(key)
        if timeline is None or context.viewer.now_ms - timeline.made_ms > SHARED_FOR_MS:
            stored = self._impersonal_events([entry.event_id for entry in shown])
            if stored is None or any(entry.sender == context.user_id for entry in shown):
                return None
            timeline = await self._flights.run(
                key, self._render_shared, context, key, stored, timeline_range
            )
        return None if context.user_id in timeline.senders else timeline

    def _impersonal_events(self, event_ids: Sequence[EventID]) -> list[StoredEvent] | None:
        events: list[StoredEvent] = []
        for event_id in event_ids:
            stored = self._events.get_nowait(event_id)
            if stored is None:
                return None
            relation = relation_of(stored.event.content)
            # The thread summary of the root says whether the reader took part in the thread.
            if relation is not None and relation.rel_type == _THREAD:
                return None
            events.append(stored)
        return events

    async def _render_shared(
        self,
        context: SyncContext,
        key: _Key,
        stored: list[StoredEvent],
        timeline_range: TimelineRange,
    ) -> RenderedTimeline:
        seen = [VisibleEvent(event, _JOIN) for event in stored]
        await self._rendering.prepare(stored, context.viewer)
        timeline = self._make_timeline(context, seen, timeline_range)
        self._shared.put(key, timeline)
        return timeline

    async def _render_rows(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        ranges: dict[RoomID, TimelineRange],
    ) -> dict[RoomID, RenderedTimeline]:
        """Return the timelines of those rooms whose rows the user certainly may see."""
        if context.compiled_filter.shapes_events:
            return {}
        rows: dict[RoomID, Sequence[TimelineRow]] = {}
        for room in room_contexts:
            read = ranges[room.room_id].rows
            if not read:
                continue
            view = await self._visibility.room_view(context.user_id, room.room_id)
            if read[0].stream_id > view.certain_after:
                visible = read
                if context.ignored or self._visibility.expires:
                    visible = [row for row in read if _is_shown(row, context, view.hidden_before)]
                surplus = len(visible) - context.compiled_filter.timeline_limit
                if surplus > 0:
                    visible = visible[surplus:]
                    ranges[room.room_id].limited = True
                rows[room.room_id] = visible
        if not rows:
            return {}
        await self._rendering.prepare_messages(chain.from_iterable(rows.values()), context.viewer)
        events = self._events.add_timeline_rows(
            row for visible in rows.values() for row in visible if not _is_message(row)
        )
        await self._rendering.prepare(list(events.values()), context.viewer)
        return {
            room_id: self._timeline_of_rows(context, visible, events, ranges[room_id])
            for room_id, visible in rows.items()
        }

    def _timeline_of_rows(
        self,
        context: SyncContext,
        rows: Sequence[TimelineRow],
        events: Mapping[EventID, StoredEvent],
        timeline_range: TimelineRange,
    ) -> RenderedTimeline:
        if not rows:
            return _empty(context, timeline_range)
        rendering, viewer = self._rendering, context.viewer
        stored = [events[row.event_id] for row in rows if row.event_id in events]
        if stored:
            messages = rendering.messages(
                [row for row in rows if row.event_id not in events], viewer
            )
            seen = [VisibleEvent(event, _JOIN) for event in stored]
            rendered = iter(rendering.timeline_events(seen, viewer, room_id=False))
            remaining = iter(messages)
            parts = [next(rendered if row.event_id in events else remaining) for row in rows]
        else:
            parts = rendering.messages(rows, viewer)
        first = rows[0]
        return RenderedTimeline(
            _encode(
                parts,
                _prev_batch(context, first.type, first.depth, first.stream_id),
                limited=timeline_range.limited,
            ),
            [row.event_id for row in rows],
            [event for event in stored if event.event.state_key is not None],
            frozenset(row.sender for row in rows),
            viewer.now_ms,
        )

    async def _render_personal(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        ranges: dict[RoomID, TimelineRange],
    ) -> dict[RoomID, RenderedTimeline]:
        events = await self._load_events([ranges[room.room_id] for room in room_contexts])
        seen = await self._visible_events(context, room_contexts, ranges, events)
        for room in room_contexts:
            surplus = len(seen[room.room_id]) - context.compiled_filter.timeline_limit
            if surplus > 0 and not room.never_joined:
                seen[room.room_id] = seen[room.room_id][surplus:]
                ranges[room.room_id].limited = True
        await self._rendering.prepare(
            [view.stored for views in seen.values() for view in views], context.viewer
        )
        return {
            room_id: self._make_timeline(context, views, ranges[room_id])
            if views
            else _empty(context, ranges[room_id])
            for room_id, views in seen.items()
        }

    async def _load_events(self, ranges: Sequence[TimelineRange]) -> dict[EventID, StoredEvent]:
        """Return the events of ranges, reading those that were not read with the ranges."""
        events: dict[EventID, StoredEvent] = {}
        for timeline_range in ranges:
            events.update(timeline_range.events)
            if timeline_range.rows is not None:
                events.update(self._events.add_timeline_rows(timeline_range.rows))
        missing = [
            entry.event_id
            for timeline_range in ranges
            for entry in timeline_range.shown
            if entry.event_id not in events
        ]
        if missing:
            events.update(await self._events.get(missing))
        return events

    async def _visible_events(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        ranges: dict[RoomID, TimelineRange],
        events: dict[EventID, StoredEvent],
    ) -> dict[RoomID, list[VisibleEvent]]:
        """Return the visible events of each room, without messages of ignored users."""
        seen: dict[RoomID, list[VisibleEvent]] = {room.room_id: [] for room in room_contexts}
        to_check: list[StoredEvent] = []
        for room in room_contexts:
            stored = [
                events[entry.event_id]
                for entry in ranges[room.room_id].shown
                if entry.event_id in events
            ]
            if room.always_joined:
                ignored = context.ignored
                hidden_before = await self._visibility.hidden_before(room.room_id)
                seen[room.room_id] = [
                    VisibleEvent(event, _membership_at(event, context.user_id))
                    for event in stored
                    if event.event.state_key is not None
                    or (
                        event.event.sender not in ignored
                        and event.event.origin_server_ts >= hidden_before
                    )
                ]
            elif room.never_joined:
                seen[room.room_id] = [VisibleEvent(event, room.own.membership) for event in stored]
            else:
                to_check += stored
        if to_check:
            for visible in await self._filter_visible(context, room_contexts, to_check):
                seen[visible.stored.event.room_id].append(visible)
        return seen

    async def _filter_visible(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        events: Sequence[StoredEvent],
    ) -> list[VisibleEvent]:
        """Return the events that the user may see, in order, and two kinds in addition.

        Current state of joined rooms is included even if it was set while the user could not see
        the room: members may read it anyway, and without it in the timeline clients would take the
        change for an older one. A ban after leaving is included, because clients would otherwise go
        on showing the room as one that was left.
        """
        own = {
            room.own.event_id for room in room_contexts if room.section is MembershipSection.LEAVE
        }
        visible = await self._visibility.filter_visible(context.user_id, events, known=own)
        if len(visible) == len(events):
            return visible
        views = {view.stored.event_id: view for view in visible}
        joined = {room.room_id for room in room_contexts if room.section is MembershipSection.JOIN}
        hidden = [
            stored
            for stored in events
            if stored.event_id not in views
            and stored.event.state_key is not None
            and stored.event.room_id in joined
        ]
        current = await self._current_state_among(hidden)
        if not current:
            return visible
        shown = [stored for stored in hidden if stored.event_id in current]
        for view in await self._visibility.filter_visible(context.user_id, shown, known=current):
            views[view.stored.event_id] = view
        return [views[stored.event_id] for stored in events if stored.event_id in views]

    async def _current_state_among(self, events: Sequence[StoredEvent]) -> set[EventID]:
        keys: dict[RoomID, list[StateKey]] = {}
        for stored in events:
            event = stored.event
            if event.state_key is not None:
                keys.setdefault(event.room_id, []).append((event.type, event.state_key))
        current: set[EventID] = set()
        for room_id, room_keys in keys.items():
            current.update((await self._states.current_of_keys(room_id, room_keys)).values())
        return current

    def _make_timeline(
        self, context: SyncContext, seen: Sequence[VisibleEvent], timeline_range: TimelineRange
    ) -> RenderedTimeline:
        rendering, viewer, compiled_filter = (
            self._rendering,
            context.viewer,
            context.compiled_filter,
        )
        rendered = rendering.timeline_events(seen, viewer, room_id=False)
        if compiled_filter.shapes_events:
            rendered = [
                apply_event_format(compiled_filter, view.stored, text)
                for view, text in zip(seen, rendered, strict=True)
            ]
        first = seen[0].stored
        prev_batch = _prev_batch(context, first.event.type, first.event.depth, first.stream_id)
        return RenderedTimeline(
            _encode(rendered, prev_batch, limited=timeline_range.limited),
            [view.stored.event_id for view in seen],
            [view.stored for view in seen if view.stored.event.state_key is not None],
            frozenset(view.stored.event.sender for view in seen),
            viewer.now_ms,
        )


def apply_event_format(
    compiled_filter: CompiledFilter, stored: StoredEvent, rendered: bytes
) -> bytes:
    """Return a rendered event in the format and with the fields that the filter selects."""
    if compiled_filter.filter.federation_format:
        rendered = federation_form(stored, rendered)
    if compiled_filter.filter.event_fields is not None:
        rendered = with_fields(rendered, compiled_filter.filter.event_fields)
    return rendered


def _is_shown(row: TimelineRow, context: SyncContext, hidden_before: int) -> bool:
    if row.state_key is not None:
        return True
    is_ignored = row.sender in context.ignored and row.sender != context.user_id
    return not is_ignored and row.origin_server_ts >= hidden_before


def _is_message(row: TimelineRow) -> bool:
    """Return whether a row can be rendered without parsing its event."""
    return (
        row.state_key is None
        and row.redacted_by is None
        and not row.has_children
        and row.type != event_types.REDACTION
    )


def _prev_batch(context: SyncContext, event_type: str, depth: int, stream_id: int) -> str:
    """Return the token before the first event of a timeline."""
    if event_type == event_types.CREATE:
        # There are no earlier events, but clients expect a token, and some of them expect
        # events before it. With this token they page through the room from its end.
        return context.position.text
    return TopologicalToken(depth, stream_id - 1).encode()


def _membership_at(stored: StoredEvent, user_id: UserID) -> str:
    event = stored.event
    if event.state_key == user_id and event.type == "m.room.member":
        membership = event.content.get("membership")
        return membership if isinstance(membership, str) else _JOIN
    return _JOIN


def _empty(context: SyncContext, timeline_range: TimelineRange) -> RenderedTimeline:
    since = context.request.since
    prev_batch = context.position.text if since is None or timeline_range.limited else since
    return RenderedTimeline(
        _encode((), prev_batch, limited=timeline_range.limited), (), (), frozenset(), 0
    )


def _encode(rendered: Sequence[bytes], prev_batch: str, *, limited: bool) -> bytes:
    return b'{"events":[%b],"limited":%b,"prev_batch":%b}' % (
        b",".join(rendered),
        b"true" if limited else b"false",
        orjson.dumps(prev_batch),
    )
