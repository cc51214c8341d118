"""The stretch of each room's timeline that is told: from memory, or from the database at once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import attrs

from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.repl.rows import StateChange
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.recent_events import TailEntry, Tails
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.storage.database import Database
from hs.storage.sync import room_changes
from hs.storage.sync.room_changes import Span, WindowRow


class Arrived(Protocol):
    """An event's place in its room."""

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
class Stretch:
    """Events of a room, the earliest first.

    `changes` are those of the state behind the plan's `after`; None: they are not known.
    """

    events: Sequence[Arrived] = ()
    limited: bool = False
    changes: Sequence[StateChange] | None = ()


@attrs.frozen(eq=False)
class Stretches:
    """Loads stretches."""

    _database: Database
    _tails: Tails
    _events: EventStore

    async def load(
        self, plans: Sequence[RoomPlan], upto: VectorPosition
    ) -> Mapping[RoomID, Stretch]:
        """Give the stretch of each room, up to a position."""
        found = {plan.room_id: Stretch() for plan in plans}
        whole: list[RoomPlan] = []  # to be read from the end of the room backwards
        behind: list[RoomPlan] = []  # to be read from `after` on
        for plan in plans:
            stretch = found[plan.room_id]
            if plan.is_alone:
                await self._fill_alone(plan, stretch)
                continue
            if not plan.initial and not self._fill_behind(plan, stretch, upto):
                stretch.changes = None
                if not plan.is_expanded:
                    behind.append(plan)
            if (plan.initial or plan.is_expanded) and not self._fill_whole(plan, stretch, upto):
                whole.append(plan)
        await self._read(whole, behind, found, upto)
        return found

    async def _fill_alone(self, plan: RoomPlan, stretch: Stretch) -> None:
        stored = await self._events.get_one(plan.own.event_id)
        if stored is not None:
            event = stored.event
            place = _Place(event.event_id, event.depth, stored.stream_id, stored.writer)
            stretch.events = (place,)
            key = (event.type, event.state_key or "", event.event_id, plan.own.membership)
            stretch.changes = (key,)

    def _fill_behind(self, plan: RoomPlan, stretch: Stretch, upto: VectorPosition) -> bool:
        assert plan.after is not None
        since = self._tails.since(plan.room_id, plan.after.events)
        if since is None:
            return False
        entries = _within(since, plan, upto)
        limit = plan.config.timeline_limit
        stretch.limited = len(entries) > limit
        stretch.events = entries[-limit:] if limit else ()
        stretch.changes = [change for entry in entries for change in entry.changes]
        return True

    def _fill_whole(self, plan: RoomPlan, stretch: Stretch, upto: VectorPosition) -> bool:
        limit = plan.config.timeline_limit
        last = self._tails.last(plan.room_id, limit + 1)
        entries = [] if last is None else _within(last, plan, upto)
        if len(entries) <= limit:
            return False
        stretch.limited = True
        stretch.events = entries[-limit:] if limit else ()
        return True

    async def _read(
        self,
        whole: Iterable[RoomPlan],
        behind: Iterable[RoomPlan],
        found: Mapping[RoomID, Stretch],
        upto: VectorPosition,
    ) -> None:
        by_limit: dict[int, dict[Span, list[RoomPlan]]] = {}
        for low_of, plans in ((_lowest, whole), (_after, behind)):
            for plan in plans:
                high = upto.most() if plan.last is None else plan.last
                spans = by_limit.setdefault(plan.config.timeline_limit, {})
                spans.setdefault((low_of(plan), high), []).append(plan)
        for limit, spans in by_limit.items():
            wanted = {span: [one.room_id for one in plans] for span, plans in spans.items()}
            rows = await self._database.read(room_changes.windows, wanted, limit + 1)
            for plans in spans.values():
                for plan in plans:
                    _fill(found[plan.room_id], plan, rows.get(plan.room_id, []), upto)


def _fill(
    stretch: Stretch, plan: RoomPlan, rows: Sequence[WindowRow], upto: VectorPosition
) -> None:
    limit = plan.config.timeline_limit
    after = None if plan.initial or plan.is_expanded or plan.after is None else plan.after.events
    events = [
        _Place(EventID(row.event_id), row.depth, row.stream_id, row.writer)
        for row in rows
        if upto.covers(row.writer, row.stream_id)
        and (after is None or not after.covers(row.writer, row.stream_id))
    ]
    stretch.events = events[-limit:] if limit else ()
    stretch.limited = len(rows) > limit and (
        after is None or not after.covers(rows[0].writer, rows[0].stream_id)
    )


def _within(
    entries: Sequence[TailEntry], plan: RoomPlan, upto: VectorPosition
) -> Sequence[TailEntry]:
    floor, covers, last = upto.floor, upto.covers, plan.last
    if last is None and entries and entries[-1].stream_id <= floor:
        # In the order of their numbers, and so are the rest.
        return entries
    within = [
        entry
        for entry in entries
        if entry.stream_id <= floor or covers(entry.writer, entry.stream_id)
    ]
    return within if last is None else [entry for entry in within if entry.stream_id <= last]


def _lowest(plan: RoomPlan) -> int:
    return room_changes.LOWEST


def _after(plan: RoomPlan) -> int:
    return room_changes.LOWEST if plan.after is None else plan.after.events.floor
