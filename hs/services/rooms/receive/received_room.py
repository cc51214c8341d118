"""A room while events of other servers are added to it: its stored, pending and new events.

Rules:

- The object belongs to one call that holds the room. `head` is the room's head with the new
  events added; the room itself changes in `submit_new` only.
- New events are submitted together when the call ends, or earlier when states must be resolved:
  the resolver reads events and auth chains from the database, so all events of the states must be
  committed. The one exception is the event that is just being added, which the resolver is
  passed.
- The room may be dropped during every await (see `hot_rooms`). So every method that awaits ends
  with a check, and nothing is computed from events that were never stored.
- A known event without the state before it, an outlier, has to be committed before it can get
  that state, as the update refers to its stream ID.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import attrs

from hs.core.auth.selection import auth_state_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.redaction import redact
from hs.core.ids import EventID, ServerName
from hs.core.stateres.conflict import Conflict, find_conflict
from hs.services.rooms.append.hot_room import (
    Extremity,
    HotRoom,
    RoomHead,
    limited_extremities,
)
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.pending_events import EventBatch, NewRoomRow, PendingEvent
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_resolution import StateResolver
from hs.services.rooms.store.state_snapshots import Changes, Snapshot, StateMap
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database, Tx
from hs.storage.rooms import events

MAX_RECENT_STATES: Final = 256  # per room, of each kind
OUTLIERS_AT_ONCE: Final = 250


@attrs.frozen(eq=False)
class KnownEvent:
    """An event that is stored, pending or new, and its status.

    `state_before` is set if the event is not committed yet; of stored events, `snapshot_id` names
    it.
    """

    event: Event
    status: EventStatus
    state_before: Snapshot | None = None
    snapshot_id: int | None = None
    redacted_by: EventID | None = None
    stream_id: int = 0

    @property
    def has_state_before(self) -> bool:
        """Whether the state before the event is known: it is not an outlier."""
        return self.state_before is not None or self.snapshot_id is not None

    @property
    def effective_event(self) -> Event:
        """The event as the rules see it: redacted, if a redaction applies to it."""
        return self.event if self.redacted_by is None else redact(self.event)


@attrs.define(eq=False)
class RecentStates:
    """Recently computed states of a room; dropped together with its HotRoom.

    `after` maps an event to the state after it, `resolved` a set of states to their resolution.
    """

    after: OrderedDict[EventID, Snapshot] = attrs.Factory(OrderedDict)
    resolved: OrderedDict[frozenset[Snapshot], Snapshot] = attrs.Factory(OrderedDict)

    def trim(self) -> None:
        """Drop the oldest entries."""
        while len(self.after) > MAX_RECENT_STATES:
            self.after.popitem(last=False)
        while len(self.resolved) > MAX_RECENT_STATES:
            self.resolved.popitem(last=False)


@attrs.frozen(eq=False)
class RoomStores:
    """The stores that a ReceivedRoom reads and writes; `recent` are states of the hot rooms."""

    database: Database
    rooms: HotRooms
    events: EventStore
    states: StateStore
    resolver: StateResolver
    server_name: ServerName = attrs.field(kw_only=True)
    recent: WeakKeyDictionary[HotRoom, RecentStates] = attrs.Factory(WeakKeyDictionary)


@attrs.define(eq=False)
class ReceivedRoom:
    """A held room and the events that are being added to it; `is_history`: before its end.

    `batches` are those of the call, `pending_batches` those of other calls whose events it found.
    All methods that await raise RoomDropped or NotCommitted if a commit of the room failed.
    """

    room: HotRoom
    _stores: RoomStores
    _states: RecentStates
    head: RoomHead
    new_events: list[PendingEvent] = attrs.Factory(list)
    new_room: NewRoomRow | None = None
    is_history: bool = False
    batches: list[EventBatch] = attrs.Factory(list)
    pending_batches: dict[int, EventBatch] = attrs.Factory(dict)
    _event_being_added: Event | None = None
    _known: dict[EventID, KnownEvent | None] = attrs.Factory(dict)
    # Of the events that were pending when the room was held, and of the new ones.
    _pending_redactions: dict[EventID, list[EventID]] = attrs.Factory(dict)
    _redacted_by_pending: set[EventID] = attrs.Factory(set)
    _missing_prev_events: set[EventID] = attrs.Factory(set)

    def __attrs_post_init__(self) -> None:
        for pending in self.room.pending.values():
            self._index(pending)

    @classmethod
    def of(cls, room: HotRoom, stores: RoomStores) -> "ReceivedRoom":
        """Return a held room, without new events."""
        return cls(room, stores, stores.recent.setdefault(room, RecentStates()), room.head)

    def limited(self, extremities: tuple[Extremity, ...]) -> tuple[Extremity, ...]:
        """Return the forward extremities that count, if there are too many."""
        return limited_extremities(extremities, self._stores.server_name)

    async def load(self, event_ids: Iterable[EventID]) -> None:
        """Load events, for `get_known`."""
        unknown = []
        for event_id in event_ids:
            if event_id in self._known:
                continue
            pending = self.room.pending.get(event_id)
            if pending is None:
                unknown.append(event_id)
            else:
                self._record(pending)
                if pending.batch is not None:
                    self.pending_batches[id(pending.batch)] = pending.batch
        if not unknown:
            return
        stored_events = await self._stores.events.get(unknown)
        self._stores.rooms.check_not_dropped(self.room)
        for event_id in unknown:
            stored = stored_events.get(event_id)
            self._known[event_id] = (
                None
                if stored is None
                else KnownEvent(
                    stored.event,
                    EventStatus(stored.status),
                    snapshot_id=stored.snapshot_id,
                    redacted_by=stored.redacted_by,
                    stream_id=stored.stream_id,
                )
            )

    def get_known(self, event_id: EventID) -> KnownEvent | None:
        """Return a loaded event; None if it is not known."""
        return self._known.get(event_id)

    async def find_settled(self, event_id: EventID) -> KnownEvent | None:
        """Load and return an event; if it is an outlier, it is committed by then."""
        known = (await self.find_known([event_id])).get(event_id)
        if known is not None and not known.has_state_before and not known.stream_id:
            await self.wait_until_committed()
            del self._known[event_id]
            known = (await self.find_known([event_id])).get(event_id)
        return known

    async def find_known(self, event_ids: Collection[EventID]) -> dict[EventID, KnownEvent]:
        """Load events; return those that are known."""
        await self.load(event_ids)
        return self.known_among(event_ids)

    def add(self, pending: PendingEvent, head: RoomHead) -> None:
        """Add an event, after which the room's head is `head`."""
        self.new_events.append(pending)
        self._index(pending)
        self.head = head
        self._event_being_added = None
        self._record(pending)

    def known_among(self, event_ids: Iterable[EventID]) -> dict[EventID, KnownEvent]:
        """Return those of the loaded events that are known."""
        known = ((event_id, self._known.get(event_id)) for event_id in event_ids)
        return {event_id: event for event_id, event in known if event is not None}

    def announce_outliers(self, outliers: Mapping[EventID, KnownEvent]) -> None:
        """Record outliers that are about to be stored."""
        self._known.update(outliers)

    async def store_outliers(self, outliers: Sequence[PendingEvent]) -> None:
        """Commit outliers, some at a time, so that other rooms are written in between."""
        for start in range(0, len(outliers), OUTLIERS_AT_ONCE):
            part = outliers[start : start + OUTLIERS_AT_ONCE]
            batch = self._stores.rooms.submit_outliers(self.room, part, self.new_room)
            await batch.wait()
            self._stores.rooms.check_not_dropped(self.room)

    def announce(self, pending: PendingEvent, state_after: Snapshot) -> None:
        """Record an event that is about to be added, and the state after it."""
        self._record(pending)
        self._event_being_added = pending.event
        self.remember_state_after(pending.event.event_id, state_after)

    def pending_redactions_of(self, event_id: EventID) -> Sequence[EventID]:
        """Return the redactions of an event that are not committed, whether in force or not."""
        return self._pending_redactions.get(event_id, ())

    def is_redacted_by_pending(self, event_id: EventID) -> bool:
        """Return whether a redaction that is not committed applies to an event."""
        return event_id in self._redacted_by_pending

    def is_missing_of_pending(self, event_id: EventID) -> bool:
        """Return whether an event that is not committed has left a gap where this event belongs."""
        return event_id in self._missing_prev_events

    def _index(self, pending: PendingEvent) -> None:
        target = pending.event.redacts
        if target is not None:
            self._pending_redactions.setdefault(target, []).append(pending.event.event_id)
        if pending.redacts is not None:
            self._redacted_by_pending.add(pending.redacts)
        self._missing_prev_events.update(pending.missing_prev_events)

    def check_not_dropped(self) -> None:
        """Raise RoomDropped if a commit of the room has failed."""
        self._stores.rooms.check_not_dropped(self.room)

    def submit_new(self) -> None:
        """Submit the new events to be committed."""
        if self.new_events:
            rooms = self._stores.rooms
            if self.is_history:
                batch = rooms.submit_history(self.room, self.new_events, self.head)
            else:
                batch = rooms.submit(self.room, self.new_events, self.head, self.new_room)
            self.batches.append(batch)
            self.new_events = []
            self.new_room = None

    async def wait_until_committed(self) -> None:
        """Submit the new events and wait until the whole room is committed."""
        self.submit_new()
        for pending in list(self.room.pending.values()):
            if pending.batch is not None:
                await pending.batch.wait()
        self._stores.rooms.check_not_dropped(self.room)

    async def auth_state(self, snapshot: Snapshot, event: Event) -> dict[StateKey, Event]:
        """Return the entries of a state that authorize an event."""
        keys = auth_state_types(
            event.rules, event.type, event.sender, event.state_key, event.content
        )
        if snapshot is self.head.snapshot:
            await self._load_into_head(keys)
            return {key: self.head.events[key] for key in keys if key in self.head.events}
        ids = {key: snapshot.map[key] for key in keys if key in snapshot.map}
        known = await self.find_known(ids.values())
        return {key: known[each].effective_event for key, each in ids.items() if each in known}

    async def _load_into_head(self, keys: Sequence[StateKey]) -> None:
        ids = {
            self.head.snapshot.map[key]
            for key in keys
            if key in self.head.snapshot.map and key not in self.head.events
        }
        if ids:
            known = await self.find_known(ids)
            self.head = self.head.with_events(event.effective_event for event in known.values())

    async def state_before(self, event: Event) -> Snapshot:
        """Return the state before an event; none of its prev_events may be an outlier."""
        prev_events = set(event.prev_events)
        if not prev_events:
            return state_snapshots.empty()
        if prev_events == {end.event_id for end in self.head.extremities}:
            return self.head.snapshot
        return await self.resolve([await self.state_after(each) for each in sorted(prev_events)])

    async def load_state_before(self, known: KnownEvent) -> Snapshot:
        """Return the state before a known event that is not an outlier."""
        if known.state_before is not None:
            return known.state_before
        assert known.snapshot_id is not None
        snapshot = await self._stores.states.snapshot(known.snapshot_id)
        self._stores.rooms.check_not_dropped(self.room)
        return snapshot

    async def state_after(self, event_id: EventID) -> Snapshot:
        """Return the state after a known event that is not an outlier."""
        if [end.event_id for end in self.head.extremities] == [event_id]:
            return self.head.snapshot
        cached = self._states.after.get(event_id)
        if cached is not None:
            return cached
        known = (await self.find_known([event_id]))[event_id]
        after = await self.load_state_before(known)
        event = known.event
        if event.state_key is not None and known.status != EventStatus.REJECTED:
            after = after.after({(event.type, event.state_key): event_id})
        self.remember_state_after(event_id, after)
        return after

    def remember_state_after(self, event_id: EventID, snapshot: Snapshot) -> None:
        """Cache the state after an event."""
        self._states.after[event_id] = snapshot
        self._states.trim()

    async def resolve(self, states: Iterable[Snapshot]) -> Snapshot:
        """Return the resolved state of several states."""
        distinct = frozenset(states)
        if len(distinct) == 1:
            return next(iter(distinct))
        cached = self._states.resolved.get(distinct)
        if cached is not None:
            return cached
        ordered = sorted(distinct, key=lambda snapshot: snapshot is not self.head.snapshot)
        maps = [snapshot.map for snapshot in ordered]
        conflict = find_conflict(maps, state_snapshots.differing_keys(ordered))
        if conflict.conflicted:
            await self.wait_until_committed()
        result = await self._stores.resolver.resolve(
            self.room.rules, conflict, maps, self._event_being_added
        )
        self._stores.rooms.check_not_dropped(self.room)
        base, changes = _nearest_state(ordered, result, conflict)
        resolved = base.after(changes)
        self._states.resolved[distinct] = resolved
        self._states.trim()
        return resolved

    async def changes_to(self, state: Snapshot) -> dict[StateKey, Event | None]:
        """Return the changes that turn the current state into `state`."""
        old, new = self.head.snapshot.map, state.map
        # The states of forks are compared without reading them whole.
        keys = state_snapshots.differing_keys((self.head.snapshot, state))
        changed_ids = {key: new.get(key) for key in sorted(keys) if old.get(key) != new.get(key)}
        ids = {event_id for event_id in changed_ids.values() if event_id is not None}
        known = await self.find_known(ids)
        return {
            key: None if event_id is None else known[event_id].effective_event
            for key, event_id in changed_ids.items()
        }

    def snapshot_from(self, entries: Mapping[StateKey, EventID]) -> Snapshot:
        """Return a snapshot of a state received from another server.

        It is stored as changes to the current state.
        """
        return self.head.snapshot.after(state_difference(self.head.snapshot.map, entries))

    async def load_gaps_and_redactions(
        self, event_ids: Sequence[EventID]
    ) -> tuple[frozenset[EventID], dict[EventID, list[EventID]]]:
        """Return which events are backward extremities, and the stored redactions of each."""
        gaps_and_redactions = await self._stores.database.read(_read_gaps_and_redactions, event_ids)
        self._stores.rooms.check_not_dropped(self.room)
        return gaps_and_redactions

    def _record(self, pending: PendingEvent) -> None:
        event = pending.event
        self._known[event.event_id] = KnownEvent(
            event, pending.status, pending.state_before, redacted_by=pending.redacted_by
        )
        target = None if pending.redacts is None else self._known.get(pending.redacts)
        if target is not None:
            redacted = attrs.evolve(target, redacted_by=event.event_id)
            self._known[target.event.event_id] = redacted


async def _read_gaps_and_redactions(
    tx: Tx, event_ids: Sequence[EventID]
) -> tuple[frozenset[EventID], dict[EventID, list[EventID]]]:
    redactions: dict[EventID, list[EventID]] = {}
    for target, redaction_id, _ in await events.list_redactions(tx, event_ids):
        redactions.setdefault(EventID(target), []).append(EventID(redaction_id))
    gaps = await events.backward_extremities_among(tx, event_ids)
    return frozenset(EventID(each) for each in gaps), redactions


def state_difference(
    old: StateMap, new: Mapping[StateKey, EventID]
) -> dict[StateKey, EventID | None]:
    """Return the entries to set in `old` to obtain `new`; None where an entry is removed."""
    if old is new:
        return {}
    changes: dict[StateKey, EventID | None] = {
        key: event_id for key, event_id in new.items() if old.get(key) != event_id
    }
    if len(old) + sum(key not in old for key in changes) != len(new):
        changes.update({key: None for key in old if key not in new})
    return changes


def _nearest_state(
    states: Sequence[Snapshot], result: StateMap, conflict: Conflict
) -> tuple[Snapshot, Changes]:
    """Return the state that differs least from the resolved one, and the changes to it."""
    keys = {key for key in result if key not in conflict.unconflicted}
    keys.update(conflict.conflicted)
    best: tuple[Snapshot, Changes] | None = None
    for state in states:
        changes = {key: result.get(key) for key in keys if state.map.get(key) != result.get(key)}
        if best is None or len(changes) < len(best[1]):
            best = (state, changes)
    assert best is not None
    return best
