"""The part of each room's timeline that a sync response covers.

Rules:

- Recent events are taken from memory. The rooms for which memory does not reach back far enough are
  read from the database together, by one statement per round.
- An event is in the range if the end position covers it and the start position does not. Both are
  vector positions; the numeric bounds of a database read are wider, and rows outside are dropped.
- If a filter drops most events, the rooms that still lack events are read further back, in larger
  chunks, for at most `MAX_ROUNDS` rounds. Then the range is limited, and may be shorter than the
  filter's limit.
- A range is exact only if it has every event of the interval and all state changes, which events in
  memory list but rows in the database do not. A range from the database counts as exact if it
  has no state event and the room's state was the same before each event.
- A range does not reach back over a gap, which is an event before which this server lacks some: it
  begins with that event, and is limited.
- The initial range of a newly joined room is limited unless it begins with the room's creation.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.recent_events import RecentEvent, RecentEvents
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext
from hs.storage.database import Database
from hs.storage.rooms import relations, timeline_gaps
from hs.storage.sync import room_changes
from hs.storage.sync.room_changes import StreamRange, TimelineRow

MAX_ROUNDS: Final = 6
FILTERED_CHUNK: Final = 100
_ROUND_FACTOR: Final = 4
_NO_EVENTS: Final[Mapping[EventID, StoredEvent]] = {}

TimelineEntry = RecentEvent | TimelineRow
"""An event of a range; a row of the database does not list changes by state resolution."""


@attrs.define(eq=False)
class TimelineRange:
    """The events of a room within a response, earliest first."""

    entries: Sequence[TimelineEntry] = ()
    """The events that were examined."""
    shown: Sequence[TimelineEntry] = ()
    """The events for the timeline, which pass the filter and its limit."""
    limited: bool = False
    is_exact: bool = False
    """Whether the examined events are all of the interval, and list all state changes."""
    events: Mapping[EventID, StoredEvent] = _NO_EVENTS
    """The events of `shown`, if they were read together with the range."""
    rows: Sequence[TimelineRow] | None = None
    """The rows of `shown`, instead of events, if all of the joined room is new to the client."""


@attrs.define(eq=False)
class _RoomRead:
    """The progress of reading one room in rounds, backwards from the end of its interval."""

    room: RoomSyncContext
    low: int
    high: int
    rows: list[TimelineRow] = attrs.Factory(list)
    passed: int = 0
    exhausted: bool = False


@attrs.frozen(eq=False)
class TimelineRanges:
    """The loader of timeline ranges."""

    _database: Database
    _tails: RecentEvents
    _events: EventStore

    async def load(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext], limit: int
    ) -> dict[RoomID, TimelineRange]:
        """Return the range of each room, with at most `limit` events for the timeline."""
        ranges: dict[RoomID, TimelineRange] = {}
        missing: list[RoomSyncContext] = []
        for room in room_contexts:
            timeline_range = (
                await self._only_member_event(room)
                if room.never_joined
                else self._from_memory(context, room, limit)
            )
            if timeline_range is None:
                missing.append(room)
            else:
                ranges[room.room_id] = timeline_range
        for room_id, timeline_range in ranges.items():
            _cut_at_gap(timeline_range, self._tails.latest_gap(room_id))
        if missing:
            ranges.update(await self._from_database(context, missing, limit))
        if context.compiled_filter.needs_children:
            await self._filter_by_relations(context, ranges)
        for room in room_contexts:
            if room.follows_gap and not room.never_joined:
                ranges[room.room_id].limited = True
            if context.since is not None and room.may_lack_history:
                timeline_range = ranges[room.room_id]
                timeline_range.limited = timeline_range.limited or not _starts_with_creation(
                    timeline_range
                )
        return ranges

    async def _only_member_event(self, room: RoomSyncContext) -> TimelineRange:
        stored = await self._events.get_one(room.own.event_id)
        if stored is None:
            return TimelineRange(is_exact=True)
        event = stored.event
        entry = RecentEvent(
            stream_id=stored.stream_id,
            writer=stored.writer,
            event_id=stored.event_id,
            type=event.type,
            state_key=event.state_key,
            sender=event.sender,
            depth=event.depth,
            contains_url=stored.contains_url,
            changes=(),
        )
        return TimelineRange((entry,), (entry,), is_exact=True)

    def _from_memory(
        self, context: SyncContext, room: RoomSyncContext, limit: int
    ) -> TimelineRange | None:
        if room.after is None:
            if not context.compiled_filter.shows_every_event:
                return None
            last = self._tails.last(room.room_id, limit + 1)
            entries = None if last is None else _in_interval(context, room, last)
            if entries is None or len(entries) <= limit:
                return None
            return TimelineRange(entries, entries[-limit:] if limit else (), limited=True)
        since = self._tails.since(room.room_id, room.after)
        if since is None:
            return None
        entries = _in_interval(context, room, since)
        filtered = _filter(context, room.room_id, entries)
        return _make_range(entries, filtered, limit, is_exact=True)

    async def _from_database(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext], limit: int
    ) -> dict[RoomID, TimelineRange]:
        readings = [
            _RoomRead(
                room,
                room_changes.LOWEST if room.after is None else room.after.floor,
                context.events_position.most()
                if room.last_stream_id is None
                else room.last_stream_id,
            )
            for room in room_contexts
        ]
        chunk = (
            limit + 1
            if context.compiled_filter.shows_every_event
            else max(limit + 1, FILTERED_CHUNK)
        )
        unfinished = readings
        for _ in range(MAX_ROUNDS):
            await self._read_round(context, unfinished, chunk)
            unfinished = [
                reading
                for reading in unfinished
                if not reading.exhausted and reading.passed <= limit
            ]
            if not unfinished:
                break
            chunk *= _ROUND_FACTOR
        ranges = {
            reading.room.room_id: _range_from_rows(context, reading, limit) for reading in readings
        }
        room_ids = [reading.room.room_id for reading in readings]
        latest = context.events_position.most()
        gaps = await self._database.read(timeline_gaps.latest, room_ids, latest)
        for room_id, stream_id in gaps.items():
            _cut_at_gap(ranges[RoomID(room_id)], stream_id)
        if context.compiled_filter.shows_every_event:
            self._add_events(readings, ranges)
        return ranges

    def _add_events(
        self, readings: Sequence[_RoomRead], ranges: Mapping[RoomID, TimelineRange]
    ) -> None:
        """Add the events that were read with the rows of ranges."""
        for reading in readings:
            room = reading.room
            timeline_range = ranges[room.room_id]
            rows = [entry for entry in timeline_range.shown if isinstance(entry, TimelineRow)]
            if room.after is None and room.section is MembershipSection.JOIN:
                timeline_range.rows = rows
            else:
                timeline_range.events = self._events.add_timeline_rows(rows)

    async def _read_round(
        self, context: SyncContext, readings: Sequence[_RoomRead], chunk: int
    ) -> None:
        spans: dict[StreamRange, list[str]] = {}
        for reading in readings:
            spans.setdefault((reading.low, reading.high), []).append(reading.room.room_id)
        load = (
            room_changes.load_timelines_of_events
            if context.compiled_filter.shows_every_event
            else room_changes.load_timelines
        )
        rows_by_room = await self._database.read(load, spans, chunk)
        for reading in readings:
            room_id = reading.room.room_id
            rows = rows_by_room.get(room_id, [])
            reading.rows = rows + reading.rows
            reading.exhausted = len(rows) < chunk
            reading.passed += len(_filter(context, room_id, rows))
            if rows:
                reading.high = rows[0].stream_id - 1

    async def _filter_by_relations(
        self, context: SyncContext, ranges: dict[RoomID, TimelineRange]
    ) -> None:
        timeline = context.compiled_filter.filter.room.timeline
        shown = [
            entry.event_id for timeline_range in ranges.values() for entry in timeline_range.shown
        ]
        children: dict[str, list[tuple[str, str]]] = {}
        for parent, rel_type, sender in await self._database.read(relations.list_children, shown):
            children.setdefault(parent, []).append((rel_type, sender))
        for timeline_range in ranges.values():
            timeline_range.shown = [
                entry
                for entry in timeline_range.shown
                if timeline.allows_children(children.get(entry.event_id, ()))
            ]


def _cut_at_gap(timeline_range: TimelineRange, stream_id: int | None) -> None:
    """Begin a range with the event after the gap, if it is one of the range."""
    if stream_id is None or all(entry.stream_id != stream_id for entry in timeline_range.entries):
        return
    timeline_range.shown = [entry for entry in timeline_range.shown if entry.stream_id >= stream_id]
    timeline_range.limited = True


def _starts_with_creation(timeline_range: TimelineRange) -> bool:
    return bool(timeline_range.shown) and timeline_range.shown[0].type == event_types.CREATE


def _in_interval(
    context: SyncContext, room: RoomSyncContext, entries: Sequence[RecentEvent]
) -> Sequence[RecentEvent]:
    upto = context.events_position
    if not entries or (
        room.last_stream_id is None
        and upto.covers(entries[-1].writer, entries[-1].stream_id)
        and not upto.ahead
    ):
        return entries
    return [
        entry
        for entry in entries
        if upto.covers(entry.writer, entry.stream_id)
        and (room.last_stream_id is None or entry.stream_id <= room.last_stream_id)
    ]


def _filter(
    context: SyncContext, room_id: RoomID, entries: Sequence[TimelineEntry]
) -> Sequence[TimelineEntry]:
    if context.compiled_filter.shows_every_event:
        return entries
    timeline = context.compiled_filter.filter.room.timeline
    if not timeline.allows_room(room_id):
        return ()
    return [
        entry
        for entry in entries
        if timeline.allows_type(entry.type)
        and timeline.allows_sender(entry.sender)
        and timeline.contains_url in (None, entry.contains_url)
    ]


def _make_range(
    entries: Sequence[TimelineEntry],
    filtered: Sequence[TimelineEntry],
    limit: int,
    *,
    is_exact: bool,
) -> TimelineRange:
    limited = len(filtered) > limit
    if limited:
        filtered = filtered[len(filtered) - limit :]
    return TimelineRange(entries, filtered, limited, is_exact)


def _range_from_rows(context: SyncContext, reading: _RoomRead, limit: int) -> TimelineRange:
    room, upto = reading.room, context.events_position
    after = VectorPosition(room_changes.LOWEST) if room.after is None else room.after
    rows = reading.rows
    if after.ahead or upto.ahead or not _are_within(rows, after, upto):
        rows = [
            row
            for row in rows
            if upto.covers(row.writer, row.stream_id)
            and not after.covers(row.writer, row.stream_id)
        ]
    filtered = _filter(context, room.room_id, rows)
    timeline_range = _make_range(rows, filtered, limit, is_exact=False)
    timeline_range.limited = timeline_range.limited or not reading.exhausted
    if room.after is None and rows and rows[0].type != event_types.CREATE:
        timeline_range.limited = True  # other servers have the events before
    # Without state events, and with the same state before each event, the state did not change.
    timeline_range.is_exact = (
        reading.exhausted
        and room.after is not None
        and all(row.state_key is None for row in rows)
        and len({row.snapshot_id for row in rows}) <= 1
    )
    return timeline_range


def _are_within(rows: Sequence[TimelineRow], after: VectorPosition, upto: VectorPosition) -> bool:
    return not rows or (rows[0].stream_id > after.floor and rows[-1].stream_id <= upto.floor)
