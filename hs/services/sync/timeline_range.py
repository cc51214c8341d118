"""The stretch of each room's timeline that an answer covers: from memory, or from the database.

Rooms that memory does not cover are read together, by one statement.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.recent_events import TailEntry, Tails
from hs.services.sync.sync_context import RoomTurn, Turn
from hs.storage.database import Database
from hs.storage.rooms import relations
from hs.storage.sync import room_changes
from hs.storage.sync.room_changes import Span, WindowRow

MAX_ROUNDS: Final = 6
FILTERED_CHUNK: Final = 100
_ROUND_FACTOR: Final = 4


@attrs.define(eq=False)
class Window:
    """What happened in a room in the span of an answer.

    `entries` are what was looked at, the earliest first; `is_whole`: they are all that happened,
    and what they say of the room's state is exact. `shown` are those for the timeline.
    """

    entries: Sequence[TailEntry] = ()
    shown: Sequence[TailEntry] = ()
    limited: bool = False
    is_whole: bool = False


@attrs.define(eq=False)
class _Reading:
    """One room being read in rounds, from the end of its span backwards."""

    one: RoomTurn
    low: int
    high: int
    rows: list[WindowRow] = attrs.Factory(list)
    passed: int = 0
    exhausted: bool = False


@attrs.frozen(eq=False)
class Windows:
    """Loads windows."""

    _database: Database
    _tails: Tails
    _events: EventStore

    async def load(self, turn: Turn, turns: Sequence[RoomTurn], limit: int) -> dict[RoomID, Window]:
        """Give the window of each room, with so many events to be shown."""
        found: dict[RoomID, Window] = {}
        missing: list[RoomTurn] = []
        for one in turns:
            window = await self._alone(one) if one.alone else self._from_memory(turn, one, limit)
            if window is None:
                missing.append(one)
            else:
                found[one.room_id] = window
        if missing:
            found.update(await self._from_database(turn, missing, limit))
        if turn.plan.filter.room.timeline.needs_children:
            await self._keep_related(turn, found)
        for one in turns:
            if turn.since is not None and one.starts_late:
                window = found[one.room_id]
                window.limited = window.limited or not _begins_the_room(window)
        return found

    async def _alone(self, one: RoomTurn) -> Window:
        stored = await self._events.get_one(one.own.event_id)
        if stored is None:
            return Window(is_whole=True)
        event = stored.event
        entry = TailEntry(
            stored.stream_id, stored.writer, stored.event_id, event.type, event.state_key,
            event.sender, event.depth, stored.contains_url, (),
        )  # fmt: skip
        return Window((entry,), (entry,), is_whole=True)

    def _from_memory(self, turn: Turn, one: RoomTurn, limit: int) -> Window | None:
        if one.after is None:
            if not turn.plan.shows_every_event:
                return None
            last = self._tails.last(one.room_id, limit + 1)
            entries = None if last is None else _within(turn, one, last)
            if entries is None or len(entries) <= limit:
                return None
            return Window(entries, entries[-limit:] if limit else (), limited=True)
        since = self._tails.since(one.room_id, one.after)
        if since is None:
            return None
        entries = _within(turn, one, since)
        passing = _passing(turn, one.room_id, entries)
        return _window(entries, passing, limit, is_whole=True)

    async def _from_database(
        self, turn: Turn, turns: Sequence[RoomTurn], limit: int
    ) -> dict[RoomID, Window]:
        readings = [
            _Reading(
                one,
                room_changes.LOWEST if one.after is None else one.after.floor,
                turn.events.most() if one.last is None else one.last,
            )
            for one in turns
        ]
        chunk = limit + 1 if turn.plan.shows_every_event else max(limit + 1, FILTERED_CHUNK)
        unfinished = readings
        for _ in range(MAX_ROUNDS):
            await self._read_round(turn, unfinished, chunk)
            unfinished = [one for one in unfinished if not one.exhausted and one.passed <= limit]
            if not unfinished:
                break
            chunk *= _ROUND_FACTOR
        return {one.one.room_id: _read_window(turn, one, limit) for one in readings}

    async def _read_round(self, turn: Turn, readings: Sequence[_Reading], chunk: int) -> None:
        spans: dict[Span, list[str]] = {}
        for one in readings:
            spans.setdefault((one.low, one.high), []).append(one.one.room_id)
        found = await self._database.read(room_changes.windows, spans, chunk)
        for one in readings:
            rows = found.get(one.one.room_id, [])
            one.rows = rows + one.rows
            one.exhausted = len(rows) < chunk
            one.passed += len(_passing(turn, one.one.room_id, [_entry(row) for row in rows]))
            if rows:
                one.high = rows[0].stream_id - 1

    async def _keep_related(self, turn: Turn, windows: dict[RoomID, Window]) -> None:
        timeline = turn.plan.filter.room.timeline
        shown = [entry.event_id for one in windows.values() for entry in one.shown]
        children: dict[str, list[tuple[str, str]]] = {}
        for parent, rel_type, sender in await self._database.read(relations.children, shown):
            children.setdefault(parent, []).append((rel_type, sender))
        for one in windows.values():
            one.shown = [
                entry
                for entry in one.shown
                if timeline.allows_children(children.get(entry.event_id, ()))
            ]


def _begins_the_room(window: Window) -> bool:
    return bool(window.shown) and window.shown[0].type == event_types.CREATE


def _within(turn: Turn, one: RoomTurn, entries: Sequence[TailEntry]) -> Sequence[TailEntry]:
    upto = turn.events
    if not entries or (
        one.last is None
        and upto.covers(entries[-1].writer, entries[-1].stream_id)
        and not upto.ahead
    ):
        return entries
    return [
        entry
        for entry in entries
        if upto.covers(entry.writer, entry.stream_id)
        and (one.last is None or entry.stream_id <= one.last)
    ]


def _passing(turn: Turn, room_id: RoomID, entries: Sequence[TailEntry]) -> Sequence[TailEntry]:
    if turn.plan.shows_every_event:
        return entries
    timeline = turn.plan.filter.room.timeline
    if not timeline.allows_room(room_id):
        return ()
    return [
        entry
        for entry in entries
        if timeline.allows_type(entry.type)
        and timeline.allows_sender(entry.sender)
        and timeline.contains_url in (None, entry.contains_url)
    ]


def _window(
    entries: Sequence[TailEntry], passing: Sequence[TailEntry], limit: int, *, is_whole: bool
) -> Window:
    limited = len(passing) > limit
    if limited:
        passing = passing[len(passing) - limit :]
    return Window(entries, passing, limited, is_whole)


def _read_window(turn: Turn, reading: _Reading, limit: int) -> Window:
    one, upto = reading.one, turn.events
    after = VectorPosition(room_changes.LOWEST) if one.after is None else one.after
    rows = [
        row
        for row in reading.rows
        if upto.covers(row.writer, row.stream_id) and not after.covers(row.writer, row.stream_id)
    ]
    entries = [_entry(row) for row in rows]
    passing = _passing(turn, one.room_id, entries)
    window = _window(entries, passing, limit, is_whole=False)
    window.limited = window.limited or not reading.exhausted
    # With no event of state among them, and all after the same state, they changed nothing.
    window.is_whole = (
        reading.exhausted
        and one.after is not None
        and all(row.state_key is None for row in rows)
        and len({row.snapshot_id for row in rows}) <= 1
    )
    return window


def _entry(row: WindowRow) -> TailEntry:
    changes = () if row.state_key is None else ((row.type, row.state_key, row.event_id, None),)
    return TailEntry(
        row.stream_id,
        row.writer,
        EventID(row.event_id),
        row.type,
        row.state_key,
        UserID(row.sender),
        row.depth,
        bool(row.contains_url),
        changes,
    )
