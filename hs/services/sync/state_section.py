"""The state section of a room: whole, or what changed, at the start or the end of the timeline.

Whoever applies the section, and after it the state events of the timeline, has the room's state
as it was at the end of the answer's span.

Spec: client-server API, Syncing, `state` and `state_after`.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import Stays
from hs.services.rooms.store.recent_events import TailEntry, Tails
from hs.services.rooms.store.replaced_state import PreviousStates
from hs.services.rooms.store.state_snapshots import StateMap
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import RoomTurn, Section, Turn
from hs.services.sync.timeline_range import Window
from hs.storage.database import Database
from hs.storage.sync import room_changes

State = dict[StateKey, EventID]

MAX_REPLACED: Final = 20_000

_NOTHING: Final[State] = {}


@attrs.frozen(eq=False)
class RoomStates:
    """Works out state sections."""

    _database: Database
    _tails: Tails
    _events: EventStore
    _states: StateStore
    _previous: PreviousStates
    _stays: Stays
    # What each state event took the place of, which never changes.
    _replaced: LruCache[EventID, EventID | None] = attrs.field(
        factory=lambda: LruCache("replaced_state", max_entries=MAX_REPLACED), init=False
    )

    async def prepare(self, room_ids: Collection[RoomID]) -> None:
        """Read the current state of rooms together, and the events in it that are no members."""
        states = await self._states.current_in(room_ids)
        await self._events.get(
            event_id
            for state_map in states.values()
            for key, event_id in state_map.items()
            if key[0] != event_types.MEMBER
        )

    async def prepare_replaced(self, shown: Iterable[Sequence[StoredEvent]]) -> None:
        """Read together what state events of timelines took the place of."""
        firsts = [first for events in shown for first in _firsts(events).values()]
        unknown = [one for one in firsts if one.event_id not in self._replaced]
        replaced = await self._previous.of(unknown)
        for stored in unknown:
            before = replaced.get(stored.event_id)
            self._replaced.put(stored.event_id, None if before is None else before.event_id)

    async def changed(
        self, turn: Turn, one: RoomTurn, window: Window, shown: Sequence[StoredEvent]
    ) -> StateMap | State:
        """Give what changed since the client's token, as far as the timeline does not tell."""
        at_end = turn.request.state_after is not None
        # The end of a stay may lie before the end of the window.
        if window.is_whole and one.section is not Section.LEAVE:
            return _changes(window.entries, {stored.event_id for stored in shown}, at_end)
        before = await self._before_span(one)
        if before is None:
            return await self.complete(turn, one, shown)
        after = await self._at_end(turn, one)
        changed = _differing(before, after)
        return changed if at_end else await self._undone(changed, before, shown)

    async def complete(
        self, turn: Turn, one: RoomTurn, shown: Sequence[StoredEvent]
    ) -> StateMap | State:
        """Give all of the state."""
        if one.alone:
            return _NOTHING
        after = await self._at_end(turn, one)
        if turn.request.state_after is not None:
            return after
        return await self._rewound(after, shown)

    async def entries(
        self,
        turn: Turn,
        one: RoomTurn,
        keys: Iterable[StateKey],
        shown: Sequence[StoredEvent],
    ) -> State:
        """Give some entries of the state that `complete` would give."""
        keys = list(keys)
        if one.section is Section.LEAVE or self._events_later(turn, one.room_id):
            whole = await self._at_end(turn, one)
            found = {key: whole[key] for key in keys if key in whole}
        else:
            found = dict(await self._states.current_of_keys(one.room_id, keys))
        if turn.request.state_after is not None:
            return found
        for key, first in _firsts(shown).items():
            if key not in keys:
                continue
            value = await self._value_replaced(first, key)
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return found

    def _events_later(self, turn: Turn, room_id: RoomID) -> Sequence[TailEntry] | None:
        # What arrived behind the answer's span while it was being made.
        return self._tails.since(room_id, turn.events)

    async def _at_end(self, turn: Turn, one: RoomTurn) -> StateMap:
        if one.section is Section.LEAVE:
            return await self._stays.state_at_end(one.own.event_id)
        state_map = await self._states.current(one.room_id)
        for entry in self._events_later(turn, one.room_id) or ():
            if entry.changes:
                return await self._before_changes(turn, one.room_id, state_map)
        return state_map

    async def _before_changes(self, turn: Turn, room_id: RoomID, state_map: StateMap) -> StateMap:
        seen: set[StateKey] = set()
        for entry in self._events_later(turn, room_id) or ():
            for event_type, state_key, _, _ in entry.changes:
                key = (event_type, state_key)
                if key in seen:
                    continue
                seen.add(key)
                stored = await self._events.get_one(entry.event_id)
                value = None if stored is None else await self._value_before(stored, key)
                state_map = _with(state_map, key, value)
        return state_map

    async def _rewound(self, state_map: StateMap, shown: Sequence[StoredEvent]) -> StateMap:
        for key, first in _firsts(shown).items():
            state_map = _with(state_map, key, await self._value_replaced(first, key))
        return state_map

    async def _undone(
        self, changed: State, before: StateMap, shown: Sequence[StoredEvent]
    ) -> State:
        """Take the timeline back out of changes; what it brings first may hide a change."""
        for key, first in _firsts(shown).items():
            if key not in changed:
                continue
            value = await self._value_replaced(first, key)
            if value is None or value == before.get(key):
                del changed[key]
            else:
                changed[key] = value
        return changed

    async def _before_span(self, one: RoomTurn) -> StateMap | None:
        """Give the state at the client's token, from the events around it; None: unknown."""
        assert one.after is not None
        last, first = await self._database.read(room_changes.around, one.room_id, one.after)
        if first is not None:
            stored = await self._events.get_one(EventID(first))
            if stored is not None and stored.snapshot_id is not None:
                return await self._states.at_snapshot(stored.snapshot_id)
        return (
            None if last is None else await self._after(await self._events.get_one(EventID(last)))
        )

    async def _after(self, stored: StoredEvent | None) -> StateMap:
        if stored is None or stored.snapshot_id is None:
            return StateMap()
        state_map = await self._states.at_snapshot(stored.snapshot_id)
        event = stored.event
        if event.state_key is None:
            return state_map
        return state_map.set((event.type, event.state_key), event.event_id)

    async def _value_replaced(self, first: StoredEvent, key: StateKey) -> EventID | None:
        if first.event_id in self._replaced:
            return self._replaced.get(first.event_id)
        return await self._value_before(first, key)

    async def _value_before(self, stored: StoredEvent, key: StateKey) -> EventID | None:
        if stored.snapshot_id is None:
            return None
        return (await self._states.of_snapshot(stored.snapshot_id, (key,))).get(key)


def only_members(state: StateMap | State, wanted: set[UserID]) -> State:
    """Give a state without the members that nobody wants."""
    return {
        key: event_id
        for key, event_id in state.items()
        if key[0] != event_types.MEMBER or key[1] in wanted
    }


def _changes(entries: Sequence[TailEntry], shown: set[EventID], at_end: bool) -> State:
    changed: dict[StateKey, EventID | None] = {}
    # Keys that the timeline has set: from there on the client goes by the timeline.
    settled: set[StateKey] = set()
    for entry in entries:
        for event_type, state_key, event_id, _ in entry.changes:
            key = (event_type, state_key)
            if not at_end and key in settled:
                continue
            if not at_end and event_id in shown:
                settled.add(key)
            else:
                changed[key] = None if event_id is None else EventID(event_id)
    return {key: event_id for key, event_id in changed.items() if event_id is not None}


def _differing(before: StateMap, after: StateMap) -> State:
    if before is after:
        return {}
    get = before.get
    return {key: event_id for key, event_id in after.items() if get(key) != event_id}


def _firsts(shown: Sequence[StoredEvent]) -> dict[StateKey, StoredEvent]:
    firsts: dict[StateKey, StoredEvent] = {}
    for stored in shown:
        if stored.event.state_key is not None:
            firsts.setdefault((stored.event.type, stored.event.state_key), stored)
    return firsts


def _with(state_map: StateMap, key: StateKey, value: EventID | None) -> StateMap:
    if value is not None:
        return state_map.set(key, value)
    return state_map.delete(key) if key in state_map else state_map
