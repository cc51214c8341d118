"""The `rooms` section of a sync response, assembled from encoded parts.

Rules:

- The timelines are loaded and rendered first; summaries and state depend on what they contain. The
  state section must not repeat what the timeline sets, and lazy loading needs the senders.
- If visibility rules hide recent events of a room, the range of its timeline is extended backwards
  a few times, so that a client does not get an empty timeline of a room with visible history. The
  range and the timeline of a room are always replaced together.
- Every member event that a lazily loading device gets, in state or timeline, is recorded, but only
  if its room is really part of the response.
- Many rooms are rendered a few at a time, and a large state in parts, so that other tasks run in
  between and few events are in memory at once. All that is read ends at the context's position,
  whenever it is read, so rooms that are read later belong to the same response.
- A shared timeline is rendered once for many users: nothing here may modify its events or JSON. Its
  senders' member events are looked up once and stored with it; that is safe because all users who
  share a timeline have the same range and the same form of state.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.filters import EventFilter
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import Count, RoomCounts
from hs.services.rooms.read.event_prefixes import EventPrefix
from hs.services.rooms.read.rendering import EventRenderer, content_of
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.read.visibility import VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.room_ephemeral import RoomEphemeralEvents
from hs.services.sync.room_summary import RoomSummaries, RoomSummary
from hs.services.sync.sources import NO_COUNTS, UnreadCountSource
from hs.services.sync.state_section import EVENTS_AT_ONCE, StateEntries, StateSection
from hs.services.sync.sticky_section import StickySection
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext
from hs.services.sync.timeline_range import TimelineRange, TimelineRanges
from hs.services.sync.timeline_section import RenderedTimeline, TimelineSection, apply_event_format

ROOMS_AT_ONCE: Final = 50
MAX_EXTENSIONS: Final = 2
_EXTENSION_FACTOR: Final = 5
_STRIPPED: Final = {
    MembershipSection.INVITE: b"invite_state",
    MembershipSection.KNOCK: b"knock_state",
}
_NO_STATE: Final[StateEntries] = {}
_NOT_LOADED: Final[Mapping[EventID, EventPrefix]] = {}
_STICKY: Final = b'"msc4354_sticky"'
_MSC3773: Final = b'"org.matrix.msc3773.unread_thread_notifications"'


@attrs.define(eq=False)
class _Room:
    """The parts of one joined or left room before they are encoded."""

    context: RoomSyncContext
    timeline_range: TimelineRange
    timeline: RenderedTimeline
    summary: RoomSummary | None
    sticky: Sequence[VisibleEvent] = ()
    state: Mapping[StateKey, EventID] = _NO_STATE


@attrs.frozen(eq=False)
class RoomsSection:
    """The renderer of the `rooms` section."""

    _ranges: TimelineRanges
    _timelines: TimelineSection
    _states: StateSection
    _summaries: RoomSummaries
    _stripped: StrippedState
    _counts: UnreadCountSource
    _events: EventStore
    _rendering: EventRenderer
    _sticky: StickySection

    async def render(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        room_events: RoomEphemeralEvents,
        sticky: Mapping[RoomID, Sequence[VisibleEvent]],
        newly_counted: AbstractSet[RoomID],
    ) -> Sequence[bytes]:
        """Return the member `rooms` of a response with its name, in parts; none if it is empty."""
        visible: list[RoomSyncContext] = []
        invites: list[RoomSyncContext] = []
        for room in room_contexts:
            (invites if room.section in _STRIPPED else visible).append(room)
        changed = room_events.rooms() | sticky.keys() | newly_counted
        if changed or context.request.full_state:
            visible += _rooms_without_events(context, room_contexts, changed)
        if newly_counted:
            visible = [
                attrs.evolve(room, has_new_count=room.room_id in newly_counted) for room in visible
            ]
        sections: dict[MembershipSection, list[bytes]] = {}
        for begin in range(0, len(visible), ROOMS_AT_ONCE):
            room_slice = visible[begin : begin + ROOMS_AT_ONCE]
            await self._add_rooms(context, room_slice, room_events, sticky, sections)
        if invites:
            await self._add_invites(context, invites, sections)
        return _rooms_member(sections) if sections else ()

    async def _add_invites(
        self,
        context: SyncContext,
        invites: Sequence[RoomSyncContext],
        sections: dict[MembershipSection, list[bytes]],
    ) -> None:
        stripped = await self._stripped.of(
            context.user_id, {room.room_id: room.own for room in invites}
        )
        for invite in invites:
            room_id, name = orjson.dumps(invite.room_id), _STRIPPED[invite.section]
            events = orjson.dumps(stripped[invite.room_id])
            sections.setdefault(invite.section, []).append(
                b'%b:{"%b":{"events":%b}},' % (room_id, name, events)
            )

    async def _add_rooms(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        room_events: RoomEphemeralEvents,
        sticky: Mapping[RoomID, Sequence[VisibleEvent]],
        sections: dict[MembershipSection, list[bytes]],
    ) -> None:
        full = room_contexts
        if not context.request.full_state:
            full = [room for room in room_contexts if room.needs_full_state]
        loaded = await self._prefetch(context, full) if full else _NOT_LOADED
        rooms = await self._rooms(context, room_contexts, full, loaded)
        counts = await self._load_counts(context, rooms)
        state = await self._render_states(context, rooms, loaded)
        for room in rooms:
            room.sticky = sticky.get(room.context.room_id, ())
            parts = await self._render_room(context, room, room_events, counts, state)
            if parts:
                sections.setdefault(room.context.section, []).extend(parts)
            if len(rooms) > 1:
                await context.time_slice.yield_if_over()

    async def _prefetch(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]
    ) -> Mapping[EventID, EventPrefix]:
        """Read the current state of many rooms together; return the state events among them."""
        joined = [room.room_id for room in room_contexts if room.section is MembershipSection.JOIN]
        return await self._states.prefetch_current(context, joined) if joined else _NOT_LOADED

    async def _rooms(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        with_full_state: Sequence[RoomSyncContext],
        loaded: Mapping[EventID, EventPrefix],
    ) -> list[_Room]:
        ranges = await self._ranges.load(
            context, room_contexts, context.compiled_filter.timeline_limit
        )
        timelines = await self._timelines.render(context, room_contexts, ranges)
        await self._extend_timelines(context, room_contexts, ranges, timelines)
        if with_full_state and context.request.state_after is None:
            await self._states.prefetch_replaced(
                timelines[room.room_id].state for room in with_full_state
            )
        summaries = await self._summaries.of(context, room_contexts, ranges, loaded)
        rooms = [
            _Room(
                room_context,
                ranges[room_context.room_id],
                timelines[room_context.room_id],
                summaries.get(room_context.room_id),
            )
            for room_context in room_contexts
        ]
        for room in rooms:
            room.state = await self._state(context, room)
            if len(rooms) > 1:
                await context.time_slice.yield_if_over()
        return rooms

    async def _extend_timelines(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        ranges: dict[RoomID, TimelineRange],
        timelines: dict[RoomID, RenderedTimeline],
    ) -> None:
        """Extend timelines backwards in which visibility rules hide recent events."""
        limit = context.compiled_filter.timeline_limit
        short = [room for room in room_contexts if not (room.always_joined or room.never_joined)]
        if not short:
            return
        for _ in range(MAX_EXTENSIONS):
            short = [
                room
                for room in short
                if len(ranges[room.room_id].shown) >= limit
                and timelines[room.room_id].count < context.compiled_filter.timeline_limit
            ]
            if not short:
                return
            limit *= _EXTENSION_FACTOR
            ranges.update(await self._ranges.load(context, short, limit))
            timelines.update(await self._timelines.render(context, short, ranges))

    # State

    async def _state(self, context: SyncContext, room: _Room) -> Mapping[StateKey, EventID]:
        room_context, shown = room.context, room.timeline.state
        compiled_filter = context.compiled_filter
        if compiled_filter.shows_no_state:
            return _NO_STATE
        heroes = room.summary.heroes if room.summary is not None else ()
        if room_context.needs_full_state or context.request.full_state:
            if not compiled_filter.is_lazy:
                return await self._states.full(context, room_context, shown)
            user_ids = {*room.timeline.senders, *heroes, context.user_id}
            if room_context.after is not None:
                # Other members may have changed since the client received them.
                changed = await self._states.changes(
                    context, room_context, room.timeline_range, shown
                )
                user_ids |= {UserID(key[1]) for key in changed if key[0] == event_types.MEMBER}
            return await self._states.full_of_members(context, room_context, user_ids, shown)
        state: Mapping[StateKey, EventID] = _NO_STATE
        timeline_range = room.timeline_range
        if not timeline_range.is_exact or any(entry.changes for entry in timeline_range.entries):
            state = await self._states.changes(context, room_context, timeline_range, shown)
        if not compiled_filter.is_lazy or not (room.timeline.count or heroes):
            return state
        return await self._with_members(context, room, state, heroes)

    async def _with_members(
        self,
        context: SyncContext,
        room: _Room,
        state: Mapping[StateKey, EventID],
        heroes: Sequence[UserID],
    ) -> Mapping[StateKey, EventID]:
        room_id = room.context.room_id
        members = await self._members(context, room)
        if heroes:
            keys = [(event_types.MEMBER, str(hero)) for hero in heroes]
            hero_events = await self._states.select(
                context, room.context, keys, room.timeline.state
            )
            members = {
                **members,
                **{UserID(key[1]): event_id for key, event_id in hero_events.items()},
            }
        skip_received = not context.compiled_filter.filter.room.state.include_redundant_members
        has = context.sent_members.has
        new_members = {
            (event_types.MEMBER, str(user_id)): event_id
            for user_id, event_id in members.items()
            if not (skip_received and has(room_id, user_id, event_id))
        }
        return {**new_members, **state} if new_members else state

    async def _members(self, context: SyncContext, room: _Room) -> Mapping[UserID, EventID]:
        timeline = room.timeline
        if timeline.members is not None:
            return timeline.members
        keys = [(event_types.MEMBER, str(sender)) for sender in timeline.senders]
        entries = await self._states.select(context, room.context, keys, timeline.state)
        timeline.members = {UserID(key[1]): event_id for key, event_id in entries.items()}
        return timeline.members

    async def _render_states(
        self,
        context: SyncContext,
        rooms: Sequence[_Room],
        loaded: Mapping[EventID, EventPrefix],
    ) -> dict[EventID, bytes]:
        """Render the state events of all rooms but those with a large state."""
        small = [room for room in rooms if 0 < len(room.state) <= EVENTS_AT_ONCE]
        if not small:
            return {}
        state_filter = context.compiled_filter.filter.room.state
        ids = [
            event_id
            for room in small
            if state_filter.allows_room(room.context.room_id)
            for event_id in room.state.values()
        ]
        return await self._render_events(context, ids, loaded) if ids else {}

    async def _render_events(
        self,
        context: SyncContext,
        event_ids: Collection[EventID],
        loaded: Mapping[EventID, EventPrefix],
    ) -> dict[EventID, bytes]:
        """Render state events that the filter allows."""
        compiled_filter = context.compiled_filter
        if compiled_filter.shows_all_state and not compiled_filter.shapes_events:
            return await self._rendering.state_by_id(
                event_ids, context.viewer, room_id=False, loaded=loaded
            )
        events = await self._events.scan(event_ids)
        await self._rendering.prepare_state(events.values())
        state_filter = compiled_filter.filter.room.state
        shown = [stored for stored in events.values() if _filter_allows(state_filter, stored)]
        rendered = self._rendering.state_events(shown, context.viewer, room_id=False)
        return {
            stored.event_id: apply_event_format(compiled_filter, stored, text)
            for stored, text in zip(shown, rendered, strict=True)
        }

    async def _state_json(
        self, context: SyncContext, room: _Room, rendered: Mapping[EventID, bytes]
    ) -> list[bytes]:
        """Return the state events of a room, in parts that are joined without a separator."""
        if len(room.state) <= EVENTS_AT_ONCE:
            shown = _shown_state(context, room, room.state.items(), rendered)
            return [b",".join(shown)] if shown else []
        room_id = room.context.room_id
        if not context.compiled_filter.filter.room.state.allows_room(room_id):
            return []
        parts: list[bytes] = []
        remaining = iter(room.state.items())
        while entries := list(islice(remaining, EVENTS_AT_ONCE)):
            events = await self._render_events(context, [event_id for _, event_id in entries], {})
            part = _shown_state(context, room, entries, events)
            if part:
                parts += (b",", b",".join(part))
            await context.time_slice.yield_if_over()
        return parts[1:]

    # Counts

    async def _load_counts(
        self, context: SyncContext, rooms: Sequence[_Room]
    ) -> Mapping[RoomID, RoomCounts]:
        joined = [
            room.context.room_id for room in rooms if room.context.section is MembershipSection.JOIN
        ]
        if not joined:
            return {}
        return await self._counts.counts(context.user_id, joined, context.events_position)

    # Bytes

    async def _render_room(
        self,
        context: SyncContext,
        room: _Room,
        room_events: RoomEphemeralEvents,
        counts: Mapping[RoomID, RoomCounts],
        rendered_state: Mapping[EventID, bytes],
    ) -> list[bytes]:
        """Return the parts of a room in the response, with a comma; none if it is left out."""
        room_context = room.context
        state = await self._state_json(context, room, rendered_state) if room.state else []
        ephemeral = room_events.ephemeral.get(room_context.room_id, ())
        account_data = room_events.account_data.get(room_context.room_id, ())
        sticky: list[bytes] = []
        if room.sticky and room_context.section is MembershipSection.JOIN:
            shown = room.timeline.event_ids
            sticky = await self._sticky.render(context, room.sticky, shown)
        always_included = (
            room_context.is_new
            or room_context.has_new_count
            or context.request.full_state
            or room.summary is not None
        )
        if not (
            always_included
            or room.timeline.count
            or room.timeline_range.limited
            or state
            or ephemeral
            or account_data
            or sticky
        ):
            return []
        if context.compiled_filter.is_lazy:
            _record_members(context, room.timeline.state)
        head = b'%b:{"timeline":%b,"%b":{"events":[' % (
            orjson.dumps(room_context.room_id),
            room.timeline.json,
            (context.request.state_after or "state").encode(),
        )
        parts = [head, *state, b']},"account_data":{"events":[%b]}' % b",".join(account_data)]
        if room_context.section is MembershipSection.JOIN:
            parts.append(b',"ephemeral":{"events":[%b]}' % b",".join(ephemeral))
            if sticky:
                parts.append(b',%b:{"events":[%b]}' % (_STICKY, b",".join(sticky)))
            parts.append(_counts_json(context, counts.get(room_context.room_id, NO_COUNTS)))
            if room.summary is not None:
                parts += (b',"summary":', room.summary.json)
        parts.append(b"},")
        return parts


def _rooms_member(sections: Mapping[MembershipSection, Sequence[bytes]]) -> list[bytes]:
    """Return the member `rooms` of sections whose rooms each end with a comma."""
    parts: list[bytes] = []
    for section, entries in sections.items():
        parts += (b"},", b'"%b":{' % section.value.encode(), *entries)
        parts[-1] = parts[-1][:-1]
    parts[0] = b'"rooms":{'
    parts.append(b"}}")
    return parts


def _rooms_without_events(
    context: SyncContext, room_contexts: Sequence[RoomSyncContext], changed: AbstractSet[RoomID]
) -> list[RoomSyncContext]:
    """Return the joined rooms without new events in which something else changed.

    With `full_state`, these are all joined rooms that are not in the response yet.
    """
    rooms = set(changed).difference([room.room_id for room in room_contexts])
    if context.request.full_state and context.since is not None:
        rooms |= {
            room_id
            for room_id, own in context.rooms.items()
            if own.membership == event_types.JOIN
            and context.compiled_filter.filter.room.allows_room(room_id)
        }.difference([room.room_id for room in room_contexts])
    since = None if context.since is None else context.since.events
    return [
        RoomSyncContext(
            room_id, MembershipSection.JOIN, context.rooms[room_id], since, always_joined=True
        )
        for room_id in rooms
    ]


def _filter_allows(event_filter: EventFilter, stored: StoredEvent) -> bool:
    event = stored.event
    return event_filter.allows(event.type, event.sender, content_of(stored))


def _shown_state(
    context: SyncContext,
    room: _Room,
    entries: Iterable[tuple[StateKey, EventID]],
    rendered: Mapping[EventID, bytes],
) -> list[bytes]:
    """Return those of the entries that were rendered, and record their members if lazy loading."""
    shown = [(key, event_id) for key, event_id in entries if event_id in rendered]
    if context.compiled_filter.is_lazy:
        context.added_members.extend(
            (room.context.room_id, UserID(key[1]), event_id)
            for key, event_id in shown
            if key[0] == event_types.MEMBER
        )
    return [rendered[event_id] for _, event_id in shown]


def _record_members(context: SyncContext, shown: Iterable[StoredEvent]) -> None:
    """Record the member events that the response sends to a lazily loading device."""
    for stored in shown:
        event = stored.event
        if event.state_key is not None and event.type == event_types.MEMBER:
            context.added_members.append((event.room_id, UserID(event.state_key), event.event_id))


def _counts_json(context: SyncContext, counts: RoomCounts) -> bytes:
    if not context.compiled_filter.filter.room.timeline.unread_thread_notifications:
        return b',"unread_notifications":%b' % _count_json(counts.total())
    main = b',"unread_notifications":%b' % _count_json(counts.main)
    if not counts.threads:
        return main
    threads = b",".join(
        b"%b:%b" % (orjson.dumps(root), _count_json(count))
        for root, count in counts.threads.items()
    )
    # Also under the name of MSC3773, which older clients read.
    return b'%b,"unread_thread_notifications":{%b},%b:{%b}' % (main, threads, _MSC3773, threads)


def _count_json(count: Count) -> bytes:
    return b'{"notification_count":%d,"highlight_count":%d}' % (count[0], count[1])
