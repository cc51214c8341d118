"""The state section of a room: full or changed state, at the start or end of the timeline.

Rules:

- A client that applies the section, and then the state events of the timeline, has the state of the
  room at the end of the response.
- The state in memory may be newer than the end of the response. It is rewound by the events that
  arrived after that end.
- The recent events in memory list all state changes, including those by state resolution. If they
  do not reach back to the token, the section is the difference between the stored states at both
  ends, and the full state if the earlier one is unknown.
- For a left room the state ends with the user's leave event.
- Entries that state resolution removed without a replacement cannot be expressed and are left out.

Spec: client-server API, Syncing, `state` and `state_after`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.read.event_prefixes import EventPrefix
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import MembershipHistory
from hs.services.rooms.store.recent_events import RecentEvent, RecentEvents
from hs.services.rooms.store.state_snapshots import StateMap
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext
from hs.services.sync.timeline_range import TimelineEntry, TimelineRange
from hs.storage.database import Database
from hs.storage.sync import room_changes

StateEntries = dict[StateKey, EventID]

EVENTS_AT_ONCE: Final = 500
"""Maximum number of state events that are loaded at once, and size of a small state."""

MAX_REPLACED_EVENTS: Final = 20_000

_DECIDING_KEYS: Final = (
    (event_types.HISTORY_VISIBILITY, ""),
    (event_types.NAME, ""),
    (event_types.CANONICAL_ALIAS, ""),
)
_NO_STATE: Final[StateEntries] = {}
_NOT_LOADED: Final[Mapping[EventID, EventPrefix]] = {}


@attrs.frozen(eq=False)
class StateSection:
    """The reader of state sections."""

    _database: Database
    _tails: RecentEvents
    _events: EventStore
    _states: StateStore
    _stays: MembershipHistory
    _visibility: Visibility
    _rendering: EventRenderer
    # The event that each state event replaced; None if there was none. It never changes.
    _replaced: LruCache[EventID, EventID | None] = attrs.field(
        factory=lambda: LruCache("replaced_state", max_entries=MAX_REPLACED_EVENTS), init=False
    )

    async def prefetch_current(
        self, context: SyncContext, room_ids: Collection[RoomID]
    ) -> Mapping[EventID, EventPrefix]:
        """Prefetch the current state of rooms, and what decides which of their events are shown.

        Returns: the state events that this loaded; none of rooms with a large state.
        """
        states = await self._states.current_in(room_ids)
        compiled_filter = context.compiled_filter
        if not compiled_filter.shows_all_state or compiled_filter.shapes_events:
            keys = _DECIDING_KEYS
            await self._events.get(
                [state[key] for state in states.values() for key in keys if key in state]
            )
            return _NOT_LOADED
        with_members = not compiled_filter.is_lazy
        small = {
            room_id: [
                event_id
                for key, event_id in state.items()
                if with_members or key[0] != event_types.MEMBER
            ]
            for room_id, state in states.items()
            if len(state) <= EVENTS_AT_ONCE
        }
        loaded = await self._rendering.load_states(small, with_members=with_members)
        self._visibility.learn(small, loaded)
        return loaded

    async def prefetch_replaced(self, shown: Iterable[Sequence[StoredEvent]]) -> None:
        """Prefetch the events that the first state events of timelines replaced."""
        firsts = [first for events in shown for first in _first_by_key(events).values()]
        unknown = [stored for stored in firsts if stored.event_id not in self._replaced]
        replaced = await self._states.replaced_events(unknown)
        for stored in unknown:
            before = replaced.get(stored.event_id)
            self._replaced.put(stored.event_id, None if before is None else before.event_id)

    async def changes(
        self,
        context: SyncContext,
        room_context: RoomSyncContext,
        timeline_range: TimelineRange,
        shown: Sequence[StoredEvent],
    ) -> StateMap | StateEntries:
        """Return the state changes since the token that the timeline does not contain."""
        at_end = context.request.state_after is not None
        # In a left room, the range may go on after the user left.
        if timeline_range.is_exact and room_context.section is not MembershipSection.LEAVE:
            return _changes_before_timeline(
                timeline_range.entries, {stored.event_id for stored in shown}, at_end
            )
        before = await self._state_at_token(room_context)
        if before is None:
            return await self.full(context, room_context, shown)
        after = await self._at_end(context, room_context)
        changed = _difference(before, after)
        return changed if at_end else await self._at_timeline_start(changed, before, shown)

    async def full(
        self, context: SyncContext, room_context: RoomSyncContext, shown: Sequence[StoredEvent]
    ) -> StateMap | StateEntries:
        """Return the full state."""
        if room_context.never_joined:
            return _NO_STATE
        after = await self._at_end(context, room_context)
        if context.request.state_after is not None:
            return after
        return await self._rewind_timeline(after, shown)

    async def full_of_members(
        self,
        context: SyncContext,
        room_context: RoomSyncContext,
        user_ids: set[UserID],
        shown: Sequence[StoredEvent],
    ) -> StateMap | StateEntries:
        """Return the full state with the member events of these users only.

        This takes no longer in rooms with many members.
        """
        room_id = room_context.room_id
        if room_context.section is not MembershipSection.LEAVE and not room_context.never_joined:
            others = await self._states.current_without_members(room_id)
            if not any(entry.changes for entry in self._later_events(context, room_id) or ()):
                return await self._with_members(context, room_context, others, user_ids, shown)
        full_state = await self.full(context, room_context, shown)
        return without_other_members(full_state, user_ids)

    async def _with_members(
        self,
        context: SyncContext,
        room_context: RoomSyncContext,
        others: StateMap,
        user_ids: set[UserID],
        shown: Sequence[StoredEvent],
    ) -> StateEntries:
        entries = dict(others)
        if context.request.state_after is None:
            for key, first in _first_by_key(shown).items():
                if key[0] == event_types.MEMBER:
                    continue
                value = await self._replaced_entry(first, key)
                if value is not None:
                    entries[key] = value
                else:
                    entries.pop(key, None)
        keys = [(event_types.MEMBER, str(user_id)) for user_id in user_ids]
        entries.update(await self.select(context, room_context, keys, shown))
        return entries

    async def select(
        self,
        context: SyncContext,
        room_context: RoomSyncContext,
        keys: Iterable[StateKey],
        shown: Sequence[StoredEvent],
    ) -> StateEntries:
        """Return the entries for `keys` of the full state; missing keys are left out."""
        keys = list(keys)
        if room_context.section is MembershipSection.LEAVE or self._later_events(
            context, room_context.room_id
        ):
            end_state = await self._at_end(context, room_context)
            entries = {key: end_state[key] for key in keys if key in end_state}
        else:
            entries = dict(await self._states.current_of_keys(room_context.room_id, keys))
        if context.request.state_after is not None:
            return entries
        for key, first in _first_by_key(shown).items():
            if key not in keys:
                continue
            value = await self._replaced_entry(first, key)
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value
        return entries

    def _later_events(self, context: SyncContext, room_id: RoomID) -> Sequence[RecentEvent] | None:
        # Events that arrived after the end of the response while it was computed.
        return self._tails.since(room_id, context.events_position)

    async def _at_end(self, context: SyncContext, room_context: RoomSyncContext) -> StateMap:
        if room_context.section is MembershipSection.LEAVE:
            return await self._stays.state_at_end(room_context.own.event_id)
        state_map = await self._states.current(room_context.room_id)
        for entry in self._later_events(context, room_context.room_id) or ():
            if entry.changes:
                return await self._rewind_later_events(context, room_context.room_id, state_map)
        return state_map

    async def _rewind_later_events(
        self, context: SyncContext, room_id: RoomID, state_map: StateMap
    ) -> StateMap:
        done: set[StateKey] = set()
        for entry in self._later_events(context, room_id) or ():
            for event_type, state_key, _, _ in entry.changes:
                key = (event_type, state_key)
                if key in done:
                    continue
                done.add(key)
                stored = await self._events.get_one(entry.event_id)
                value = None if stored is None else await self._entry_before(stored, key)
                state_map = _with_entry(state_map, key, value)
        return state_map

    async def _rewind_timeline(self, state_map: StateMap, shown: Sequence[StoredEvent]) -> StateMap:
        for key, first in _first_by_key(shown).items():
            state_map = _with_entry(state_map, key, await self._replaced_entry(first, key))
        return state_map

    async def _at_timeline_start(
        self, changed: StateEntries, before: StateMap, shown: Sequence[StoredEvent]
    ) -> StateEntries:
        """Convert changes at the end of the timeline to changes at its start.

        For a key that the timeline sets, the change before the timeline is what its first event of
        that key replaced.
        """
        for key, first in _first_by_key(shown).items():
            if key not in changed:
                continue
            value = await self._replaced_entry(first, key)
            if value is None or value == before.get(key):
                del changed[key]
            else:
                changed[key] = value
        return changed

    async def _state_at_token(self, room_context: RoomSyncContext) -> StateMap | None:
        """Return the state at the client's token, from the events around it; None if unknown."""
        assert room_context.after is not None
        last, first = await self._database.read(
            room_changes.around_position, room_context.room_id, room_context.after
        )
        if first is not None:
            stored = await self._events.get_one(EventID(first))
            if stored is not None and stored.snapshot_id is not None:
                return await self._states.at_snapshot(stored.snapshot_id)
        return (
            None
            if last is None
            else await self._state_after(await self._events.get_one(EventID(last)))
        )

    async def _state_after(self, stored: StoredEvent | None) -> StateMap:
        if stored is None or stored.snapshot_id is None:
            return StateMap()
        state_map = await self._states.at_snapshot(stored.snapshot_id)
        event = stored.event
        if event.state_key is None:
            return state_map
        return state_map.set((event.type, event.state_key), event.event_id)

    async def _replaced_entry(self, first: StoredEvent, key: StateKey) -> EventID | None:
        if first.event_id in self._replaced:
            return self._replaced.get(first.event_id)
        return await self._entry_before(first, key)

    async def _entry_before(self, stored: StoredEvent, key: StateKey) -> EventID | None:
        if stored.snapshot_id is None:
            return None
        return (await self._states.snapshot_entries(stored.snapshot_id, (key,))).get(key)


def without_other_members(state: StateMap | StateEntries, user_ids: set[UserID]) -> StateEntries:
    """Return a state without the member events of other users than these."""
    return {
        key: event_id
        for key, event_id in state.items()
        if key[0] != event_types.MEMBER or key[1] in user_ids
    }


def _changes_before_timeline(
    entries: Sequence[TimelineEntry], shown: set[EventID], at_end: bool
) -> StateEntries:
    changed: dict[StateKey, EventID | None] = {}
    # Keys that the timeline has set. From there on the client follows the timeline.
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


def _difference(before: StateMap, after: StateMap) -> StateEntries:
    if before is after:
        return {}
    get = before.get
    return {key: event_id for key, event_id in after.items() if get(key) != event_id}


def _first_by_key(shown: Sequence[StoredEvent]) -> dict[StateKey, StoredEvent]:
    firsts: dict[StateKey, StoredEvent] = {}
    for stored in shown:
        if stored.event.state_key is not None:
            firsts.setdefault((stored.event.type, stored.event.state_key), stored)
    return firsts


def _with_entry(state_map: StateMap, key: StateKey, value: EventID | None) -> StateMap:
    if value is not None:
        return state_map.set(key, value)
    return state_map.delete(key) if key in state_map else state_map
