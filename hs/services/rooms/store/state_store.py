"""State by room and by snapshot: maps in memory up to a bound, kept current by the feed.

The maps share structure with those they were derived from, so a change costs a few hundred
bytes however large the room is.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from typing import Final

import attrs
from immutables import Map

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.repl.feed import Batch, Feed
from hs.repl.rows import CacheRow, EventRow, StateChange
from hs.repl.streams import CACHES, EVENTS
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_snapshots import Snapshot, StateMap
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database, Tx
from hs.storage.rooms import state
from hs.storage.rooms.state import EMPTY_SNAPSHOT, Key

MAX_CURRENT_BYTES: Final = 64 * 1024 * 1024
MAX_SNAPSHOT_BYTES: Final = 64 * 1024 * 1024

PURGED_ROOMS: Final = "purged_rooms"
"""The cache whose rows tell of rooms that are no more."""

ROOMS_AT_ONCE: Final = 25

_MAP_BYTES: Final = 300
_EMPTY: Final[StateMap] = Map()


@attrs.define(eq=False)
class _Current:
    """The state of one room now; `entries` is how many there were when it was weighed."""

    map: StateMap
    entries: int


@attrs.define(eq=False)
class _Known:
    """The state of one snapshot; derived ones share most of their map with another."""

    map: StateMap
    derived: bool
    hops: int


@attrs.frozen(eq=False)
class _Loaded:
    hops: int
    base: int | None  # the snapshot in memory to lay `layer` over
    layer: dict[Key, str | None]


def _weigh_current(room_id: RoomID, held: _Current) -> int:
    return _MAP_BYTES + held.entries * state_snapshots.ENTRY_BYTES


def _weigh_snapshot(snapshot_id: int, known: _Known) -> int:
    if known.derived:
        return _MAP_BYTES + state_snapshots.CHANGE_BYTES + len(known.map)
    return _MAP_BYTES + len(known.map) * state_snapshots.ENTRY_BYTES


class StateStore:
    """The state of all rooms; every process has one."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        events: EventStore,
        max_current_bytes: int = MAX_CURRENT_BYTES,
        max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES,
    ) -> None:
        self._database = database
        self._events = events
        self._rooms: LruCache[RoomID, _Current] = LruCache(
            "current_state", max_weight=max_current_bytes, weigh=_weigh_current
        )
        self._snapshots: LruCache[int, _Known] = LruCache(
            "state_snapshots", max_weight=max_snapshot_bytes, weigh=_weigh_snapshot
        )
        self._flights: SingleFlight[RoomID | int] = SingleFlight()
        # For each room being read, what the feed brought meanwhile: one list for each reader.
        self._meanwhile: dict[RoomID, list[list[StateChange]]] = {}
        feed.subscribe(EVENTS, self._on_events)
        feed.subscribe(CACHES, self._on_caches)

    def current_nowait(self, room_id: RoomID) -> StateMap | None:
        """Give the current state of a room that is in memory."""
        held = self._rooms.get(room_id)
        return None if held is None else held.map

    async def current(self, room_id: RoomID) -> StateMap:
        """Give the current state of a room, as of this process's feed; empty if unknown."""
        held = self.current_nowait(room_id)
        if held is not None:
            return held
        return await self._flights.run(room_id, self._load_current, room_id)

    async def current_in(self, room_ids: Collection[RoomID]) -> dict[RoomID, StateMap]:
        """Give the current state of many rooms, reading those not in memory together."""
        missing = [room_id for room_id in room_ids if room_id not in self._rooms]
        read: dict[RoomID, StateMap] = {}
        for first in range(0, len(missing), ROOMS_AT_ONCE):
            read.update(await self._load_many(missing[first : first + ROOMS_AT_ONCE]))
        found: dict[RoomID, StateMap] = {}
        for room_id in room_ids:
            held = self.current_nowait(room_id)
            found[room_id] = read.get(room_id, _EMPTY) if held is None else held
        return found

    async def current_of_types(
        self, room_id: RoomID, types: Collection[str]
    ) -> Mapping[StateKey, EventID]:
        """Give the current state of some types, without reading all of a room's."""
        held = self.current_nowait(room_id)
        if held is None:
            found = await self._database.read(state.current_of_types, room_id, list(types))
            return _typed(found)
        return {key: event_id for key, event_id in held.items() if key[0] in types}

    async def current_of_keys(
        self, room_id: RoomID, keys: Collection[StateKey]
    ) -> Mapping[StateKey, EventID]:
        """Give some entries of the current state, without reading all of a room's."""
        held = self.current_nowait(room_id)
        if held is None:
            return _typed(await self._database.read(state.current_of_keys, room_id, list(keys)))
        return {key: held[key] for key in keys if key in held}

    async def current_event(
        self, room_id: RoomID, event_type: str, state_key: str = ""
    ) -> StoredEvent | None:
        """Give the event that holds an entry of the current state."""
        key = (event_type, state_key)
        event_id = (await self.current_of_keys(room_id, (key,))).get(key)
        return None if event_id is None else await self._events.get_one(event_id)

    def snapshot_nowait(self, snapshot_id: int) -> StateMap | None:
        """Give the state of a snapshot that is in memory."""
        if snapshot_id == EMPTY_SNAPSHOT:
            return Map()
        known = self._snapshots.get(snapshot_id)
        return None if known is None else known.map

    async def at_snapshot(self, snapshot_id: int) -> StateMap:
        """Give the state of a snapshot; it never changes."""
        if snapshot_id == EMPTY_SNAPSHOT:
            return Map()
        known = self._snapshots.get(snapshot_id)
        if known is not None:
            return known.map
        return await self._flights.run(snapshot_id, self._load_snapshot, snapshot_id)

    async def of_snapshot(
        self, snapshot_id: int, keys: Collection[StateKey]
    ) -> Mapping[StateKey, EventID]:
        """Give some entries of a snapshot, without making all of its map."""
        known = self._snapshots.get(snapshot_id)
        if known is not None:
            return {key: known.map[key] for key in keys if key in known.map}
        if snapshot_id == EMPTY_SNAPSHOT or not keys:
            return {}
        found = await self._database.read(state.snapshot_subset, snapshot_id, list(keys))
        return _typed(found)

    async def snapshot(self, snapshot_id: int) -> Snapshot:
        """Give a stored snapshot to build others upon."""
        if snapshot_id == EMPTY_SNAPSHOT:
            return state_snapshots.empty()
        state_map = await self.at_snapshot(snapshot_id)
        known = self._snapshots.get(snapshot_id)
        # Should it be too large to be kept: a wrong number of hops only costs a longer chain.
        return Snapshot(state_map, snapshot_id, 0 if known is None else known.hops)

    def remember_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in memory that is being stored."""
        assert snapshot.id is not None
        derived = snapshot.hops > 0
        self._snapshots.put(snapshot.id, _Known(snapshot.map, derived, snapshot.hops))

    def remember_current(self, room_id: RoomID, state_map: StateMap) -> None:
        """Keep a room's current state that its owner read, with nothing under way to change it."""
        if room_id not in self._rooms and room_id not in self._meanwhile:
            self._rooms.put(room_id, _Current(state_map, len(state_map)))

    async def _load_current(self, room_id: RoomID) -> StateMap:
        return (await self._load_many((room_id,)))[room_id]

    async def _load_many(self, room_ids: Collection[RoomID]) -> dict[RoomID, StateMap]:
        news: dict[RoomID, list[StateChange]] = {room_id: [] for room_id in room_ids}
        for room_id, changes in news.items():
            self._meanwhile.setdefault(room_id, []).append(changes)
        try:
            loaded = await self._database.read(_read_current, list(room_ids))
        finally:
            for room_id, changes in news.items():
                self._stop_listening(room_id, changes)
        for room_id, changes in news.items():
            state_map = loaded[room_id] = _after(loaded.get(room_id, _EMPTY), changes)
            if state_map:
                self._rooms.put(room_id, _Current(state_map, len(state_map)))
        return loaded

    def _stop_listening(self, room_id: RoomID, changes: list[StateChange]) -> None:
        listening = [one for one in self._meanwhile[room_id] if one is not changes]
        if listening:
            self._meanwhile[room_id] = listening
        else:
            del self._meanwhile[room_id]

    async def _load_snapshot(self, snapshot_id: int) -> StateMap:
        loaded = await self._database.read(_read_snapshot, snapshot_id, self._snapshots)
        base = None if loaded.base is None else self._snapshots.get(loaded.base)
        if base is None and loaded.base is not None:
            # It fell out of memory meanwhile.
            loaded = await self._database.read(_read_snapshot, snapshot_id, ())
        state_map: StateMap = Map() if base is None else base.map
        state_map = _laid_over(state_map, loaded.layer)
        self._snapshots.put(snapshot_id, _Known(state_map, base is not None, loaded.hops))
        return state_map

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        for _, row in batch.rows:
            if row.cache == PURGED_ROOMS:
                for room_id in row.keys:
                    self._rooms.pop(RoomID(room_id))

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            changes = row.changes()
            if not changes:
                continue
            room_id = RoomID(row.room_id)
            if _begins_a_room(row) and room_id not in self._rooms:
                # All that follows comes by the feed as well.
                self._rooms.put(room_id, _Current(_EMPTY, 1))
            if room_id in self._rooms:
                held = self._rooms.get(room_id)
                if held is not None:
                    held.map = _after(held.map, changes)
                    if len(held.map) > 2 * held.entries:
                        self._rooms.put(room_id, _Current(held.map, len(held.map)))
            for news in self._meanwhile.get(room_id, ()):
                news.extend(changes)


def _begins_a_room(row: EventRow) -> bool:
    """Tell whether there was no state of the room before an event."""
    is_create = row.type == event_types.CREATE and row.state_key == ""
    return is_create and not (row.outlier or row.rejected or row.soft_failed)


async def _read_current(tx: Tx, room_ids: list[RoomID]) -> dict[RoomID, StateMap]:
    found: dict[RoomID, dict[StateKey, EventID]] = {}
    for room_id, event_type, state_key, event_id in await state.current_in(tx, room_ids):
        found.setdefault(RoomID(room_id), {})[event_type, state_key] = EventID(event_id)
    return {room_id: Map(entries) for room_id, entries in found.items()}


async def _read_snapshot(tx: Tx, snapshot_id: int, known: Container[int]) -> _Loaded:
    chain = await state.chain(tx, snapshot_id)
    hops = max(0, len(chain) - 1)
    first = max((n for n, (number, _) in enumerate(chain) if number in known), default=-1)
    base = chain[first][0] if first >= 0 else None
    if base is None:
        whole = state.overlay({}, (delta for _, delta in chain))
        return _Loaded(hops, None, dict(await state.named(tx, whole)))
    changes: dict[int, int] = {}
    for _, delta in chain[first + 1 :]:
        changes.update(state.unpack(delta))
    kept = {key: number for key, number in changes.items() if number != state.REMOVED}
    layer: dict[Key, str | None] = dict(await state.named(tx, kept))
    gone = [key for key, number in changes.items() if number == state.REMOVED]
    for name in (await state.key_names(tx, gone)).values():
        layer[name] = None
    return _Loaded(hops, base, layer)


def _laid_over(state_map: StateMap, layer: Mapping[Key, str | None]) -> StateMap:
    copy = state_map.mutate()
    for key, event_id in layer.items():
        if event_id is not None:
            copy[key] = EventID(event_id)
        elif key in copy:
            del copy[key]
    return copy.finish()


def _after(state_map: StateMap, changes: Iterable[StateChange]) -> StateMap:
    return _laid_over(state_map, {(one[0], one[1]): one[2] for one in changes})


def _typed(found: Mapping[Key, str]) -> dict[StateKey, EventID]:
    return {key: EventID(event_id) for key, event_id in found.items()}
