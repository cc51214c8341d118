"""The part of each room's timeline that a sliding sync response contains.

Rules:

- Recent events are taken from memory. Rooms for which memory does not reach back far enough are
  read from the database together, by one statement for each timeline limit.
- An event is in the slice if the end position covers it and the start position does not. The
  bounds of a database read are plain numbers and wider; rows outside the slice are dropped.
- A room that is new to the client, or whose timeline limit grew, gets its latest events. Every
  other room gets the events after the position up to which it was sent.
- The state changes are known only if memory reaches back to that position, even if the timeline
  itself is read from the end of the room.
- For a user who left, the slice ends with the event that ended the membership.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import StateChange
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.recent_events import RecentEvent, RecentEvents
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.storage.database import Database
from hs.storage.rooms import timeline_gaps
from hs.storage.sync import room_changes
from hs.storage.sync.room_changes import StreamRange, TimelineRow


class EventPlace(Protocol):
    """The ID of an event and its positions in the room and in the stream."""

    @property
    def event_id(self) -> EventID: ...

    @property
    def depth(self) -> int: ...

    @property
    def stream_id(self) -> int: ...

    @property
    def writer(self) -> str: ...


class _Place(NamedTuple):
    event_id: EventID
    depth: int
    stream_id: int
    writer: str


@attrs.define(eq=False)
class TimelineSlice:
    """Events of a room, earliest first."""

    events: Sequence[EventPlace] = ()
    limited: bool = False
    changes: Sequence[StateChange] | None = ()
    """The state changes since the room was last sent; None if they are unknown."""


@attrs.frozen(eq=False)
class TimelineSlices:
    """The loader of timeline slices."""

    _database: Database
    _tails: RecentEvents
    _events: EventStore

    async def load(
        self, plans: Sequence[RoomPlan], upto: VectorPosition
    ) -> Mapping[RoomID, TimelineSlice]:
        """Return the slice of each room, up to a position."""
        slices = {plan.room_id: TimelineSlice() for plan in plans}
        latest: list[RoomPlan] = []  # need the latest events of the room
        incremental: list[RoomPlan] = []  # need the events since the room was last sent
        for plan in plans:
            timeline_slice = slices[plan.room_id]
            if plan.is_ended_invite:
                await self._fill_with_member_event(plan, timeline_slice)
                continue
            if not plan.initial and not self._fill_since(plan, timeline_slice, upto):
                timeline_slice.changes = None
                if not plan.is_expanded:
                    incremental.append(plan)
            if (plan.initial or plan.is_expanded) and not self._fill_latest(
                plan, timeline_slice, upto
            ):
                latest.append(plan)
        for room_id, timeline_slice in slices.items():
            _cut_at_gap(timeline_slice, self._tails.latest_gap(room_id))
        await self._read(latest, incremental, slices, upto)
        return slices

    async def _fill_with_member_event(self, plan: RoomPlan, timeline_slice: TimelineSlice) -> None:
        stored = await self._events.get_one(plan.own.event_id)
        if stored is not None:
            event = stored.event
            place = _Place(event.event_id, event.depth, stored.stream_id, stored.writer)
            timeline_slice.events = (place,)
            change = (event.type, event.state_key or "", event.event_id, plan.own.membership)
            timeline_slice.changes = (change,)

    def _fill_since(
        self, plan: RoomPlan, timeline_slice: TimelineSlice, upto: VectorPosition
    ) -> bool:
        assert plan.after is not None
        since = self._tails.since(plan.room_id, plan.after.events)
        if since is None:
            return False
        entries = _up_to(since, plan, upto)
        limit = plan.config.timeline_limit
        timeline_slice.limited = len(entries) > limit
        timeline_slice.events = entries[-limit:] if limit else ()
        timeline_slice.changes = [change for entry in entries for change in entry.changes]
        return True

    def _fill_latest(
        self, plan: RoomPlan, timeline_slice: TimelineSlice, upto: VectorPosition
    ) -> bool:
        limit = plan.config.timeline_limit
        last = self._tails.last(plan.room_id, limit + 1)
        entries = [] if last is None else _up_to(last, plan, upto)
        if len(entries) <= limit:
            return False
        timeline_slice.limited = True
        timeline_slice.events = entries[-limit:] if limit else ()
        return True

    async def _read(
        self,
        latest: Iterable[RoomPlan],
        incremental: Iterable[RoomPlan],
        slices: Mapping[RoomID, TimelineSlice],
        upto: VectorPosition,
    ) -> None:
        by_limit: dict[int, dict[StreamRange, list[RoomPlan]]] = {}
        for start_of, plans in ((_lowest_of, latest), (_start_of, incremental)):
            for plan in plans:
                high = upto.most() if plan.last_stream_id is None else plan.last_stream_id
                spans = by_limit.setdefault(plan.config.timeline_limit, {})
                spans.setdefault((start_of(plan), high), []).append(plan)
        read = [plan.room_id for spans in by_limit.values() for plan in chain(*spans.values())]
        gaps = await self._database.read(timeline_gaps.latest, read, upto.most()) if read else {}
        for limit, spans in by_limit.items():
            rooms_by_span = {
                span: [plan.room_id for plan in plans] for span, plans in spans.items()
            }
            rows = await self._database.read(room_changes.load_timelines, rooms_by_span, limit + 1)
            for plans in spans.values():
                for plan in plans:
                    _fill(slices[plan.room_id], plan, rows.get(plan.room_id, []), upto)
                    _cut_at_gap(slices[plan.room_id], gaps.get(plan.room_id))


def _cut_at_gap(timeline_slice: TimelineSlice, stream_id: int | None) -> None:
    """Begin a slice with the event before which events are missing, if it is one of the slice."""
    if stream_id is None or all(place.stream_id != stream_id for place in timeline_slice.events):
        return
    timeline_slice.events = [
        place for place in timeline_slice.events if place.stream_id >= stream_id
    ]
    timeline_slice.limited = True


def _fill(
    timeline_slice: TimelineSlice, plan: RoomPlan, rows: Sequence[TimelineRow], upto: VectorPosition
) -> None:
    limit = plan.config.timeline_limit
    after = None if plan.initial or plan.is_expanded or plan.after is None else plan.after.events
    events = [
        _Place(EventID(row.event_id), row.depth, row.stream_id, row.writer)
        for row in rows
        if upto.covers(row.writer, row.stream_id)
        and (after is None or not after.covers(row.writer, row.stream_id))
    ]
    timeline_slice.events = events[-limit:] if limit else ()
    timeline_slice.limited = len(rows) > limit and (
        after is None or not after.covers(rows[0].writer, rows[0].stream_id)
    )
    if after is None and rows and rows[0].type != event_types.CREATE:
        timeline_slice.limited = True  # there are older events, here or on other servers


def _up_to(
    entries: Sequence[RecentEvent], plan: RoomPlan, upto: VectorPosition
) -> Sequence[RecentEvent]:
    floor, covers, last = upto.floor, upto.covers, plan.last_stream_id
    if last is None and entries and entries[-1].stream_id <= floor:
        # Entries are in the order of their stream IDs, so all of them are covered.
        return entries
    within = [
        entry
        for entry in entries
        if entry.stream_id <= floor or covers(entry.writer, entry.stream_id)
    ]
    return within if last is None else [entry for entry in within if entry.stream_id <= last]


def _lowest_of(plan: RoomPlan) -> int:
    return room_changes.LOWEST


def _start_of(plan: RoomPlan) -> int:
    return room_changes.LOWEST if plan.after is None else plan.after.events.floor
