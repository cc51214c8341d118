"""The cache of room state: current state by room, and state snapshots by ID.

Rules:

- The current state of a cached room is exact as of this process's feed; `KeyFollower` settles the
  race between reads and rows. If a read was ahead of the feed, rows that it contained already are
  applied again; as they come in order and assign entries, the result is that of the last row.
- When the feed delivers a room's create event, its state is complete from then on and is cached
  without a read.
- The owner of a room has read its current state under the lock; it is cached only if no other read
  is in progress, whose result might be older or newer.
- A snapshot never changes. A purged room is dropped by a row in the stream of caches.
- Maps share structure with those they were derived from, so a change costs a few hundred bytes
  however large the room is.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from typing import Final

import attrs
from immutables import Map

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID
from hs.core.streams import CACHES, EVENTS, CacheRow, EventRow, StateChange
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.followers import KeyFollower
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_snapshots import Snapshot, StateMap
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database, Tx
from hs.storage.rooms import state, timelines
from hs.storage.rooms.state import EMPTY_SNAPSHOT, Key

MAX_CURRENT_BYTES: Final = 64 * 1024 * 1024
MAX_SNAPSHOT_BYTES: Final = 64 * 1024 * 1024

PURGED_ROOMS: Final = "purged_rooms"
"""The cache name in CacheRows that list purged rooms."""

ROOMS_AT_ONCE: Final = 50

_MAP_BYTES: Final = 300
_EMPTY: Final[StateMap] = Map()


@attrs.define(eq=False)
class _CachedRoom:
    """The current state of one room; `entries` is its size when it was last weighed.

    `others` is the state without member events, which is small in the largest rooms. A room that is
    larger than the cache weighs half of it: else it would be read for each event.
    """

    map: StateMap
    others: StateMap
    entries: int = 0
    weight: int = _MAP_BYTES

    def weigh(self, at_most: int) -> None:
        """Estimate the memory that the map uses, in bytes, as a weight of up to `at_most`."""
        self.entries = len(self.map)
        self.weight = min(at_most, _MAP_BYTES + self.entries * state_snapshots.ENTRY_BYTES)


@attrs.define(eq=False)
class _CachedSnapshot:
    """The state of one snapshot; a derived map shares most of its memory with another."""

    map: StateMap
    derived: bool
    hops: int


@attrs.frozen(eq=False)
class _Loaded:
    hops: int
    base: int | None  # the cached snapshot that `layer` is applied to
    layer: dict[Key, str | None]


def _weigh_current(room_id: RoomID, cached: _CachedRoom) -> int:
    return cached.weight


def _weigh_snapshot(snapshot_id: int, cached: _CachedSnapshot) -> int:
    if cached.derived:
        return _MAP_BYTES + state_snapshots.CHANGE_BYTES + len(cached.map)
    return _MAP_BYTES + len(cached.map) * state_snapshots.ENTRY_BYTES


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
        self._rooms: LruCache[RoomID, _CachedRoom] = LruCache(
            "current_state", max_weight=max_current_bytes, weigh=_weigh_current
        )
        self._snapshots: LruCache[int, _CachedSnapshot] = LruCache(
            "state_snapshots", max_weight=max_snapshot_bytes, weigh=_weigh_snapshot
        )
        self._follower = KeyFollower(self._rooms, self._read_rooms, _with_changes, self._keep_room)
        self._snapshot_flights: SingleFlight[int] = SingleFlight()
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)
        feed.subscribe(CACHES, self._on_caches)

    def current_nowait(self, room_id: RoomID) -> StateMap | None:
        """Return the current state of a room that is in memory."""
        cached = self._rooms.get(room_id)
        return None if cached is None else cached.map

    async def current(self, room_id: RoomID) -> StateMap:
        """Return a room's current state, as of this process's feed; empty for unknown rooms."""
        return (await self._follower.get(room_id)).map

    async def current_without_members(self, room_id: RoomID) -> StateMap:
        """Return a room's current state without member events, in time that depends on its size.

        It belongs to what `current_nowait` returns at the same moment, if the room is in memory.
        """
        return (await self._follower.get(room_id)).others

    async def current_in(self, room_ids: Collection[RoomID]) -> dict[RoomID, StateMap]:
        """Return the current state of many rooms, reading those not in memory together."""
        rooms = await self._follower.get_many(room_ids, at_once=ROOMS_AT_ONCE)
        return {room_id: rooms[room_id].map for room_id in room_ids}

    async def current_of_types(
        self, room_id: RoomID, types: Collection[str]
    ) -> Mapping[StateKey, EventID]:
        """Return the current state events of these types, without loading the whole state."""
        cached = self.current_nowait(room_id)
        if cached is None:
            entries = await self._database.read(state.load_current_of_types, room_id, list(types))
            return _typed(entries)
        return {key: event_id for key, event_id in cached.items() if key[0] in types}

    async def current_of_keys(
        self, room_id: RoomID, keys: Collection[StateKey]
    ) -> Mapping[StateKey, EventID]:
        """Return these entries of the current state, without loading the whole state."""
        cached = self.current_nowait(room_id)
        if cached is None:
            return _typed(
                await self._database.read(state.load_current_of_keys, room_id, list(keys))
            )
        return {key: cached[key] for key in keys if key in cached}

    async def current_event(
        self, room_id: RoomID, event_type: str, state_key: str = ""
    ) -> StoredEvent | None:
        """Return the current state event of this type and state key."""
        key = (event_type, state_key)
        event_id = (await self.current_of_keys(room_id, (key,))).get(key)
        return None if event_id is None else await self._events.get_one(event_id)

    def snapshot_nowait(self, snapshot_id: int) -> StateMap | None:
        """Return the state of a snapshot that is in memory."""
        if snapshot_id == EMPTY_SNAPSHOT:
            return Map()
        cached = self._snapshots.get(snapshot_id)
        return None if cached is None else cached.map

    async def at_snapshot(self, snapshot_id: int) -> StateMap:
        """Return the state of a snapshot."""
        if snapshot_id == EMPTY_SNAPSHOT:
            return Map()
        cached = self._snapshots.get(snapshot_id)
        if cached is not None:
            return cached.map
        return await self._snapshot_flights.run(snapshot_id, self._load_snapshot, snapshot_id)

    async def snapshot_entries(
        self, snapshot_id: int, keys: Collection[StateKey]
    ) -> Mapping[StateKey, EventID]:
        """Return these entries of a snapshot, without loading the whole state."""
        cached = self._snapshots.get(snapshot_id)
        if cached is not None:
            return {key: cached.map[key] for key in keys if key in cached.map}
        if snapshot_id == EMPTY_SNAPSHOT or not keys:
            return {}
        entries = await self._database.read(state.snapshot_subset, snapshot_id, list(keys))
        return _typed(entries)

    async def replaced_events(self, events: Collection[StoredEvent]) -> dict[EventID, StoredEvent]:
        """Return, for each state event that replaced another, the replaced event."""
        replaced: dict[EventID, EventID] = {}
        unknown: dict[tuple[int, StateKey], list[EventID]] = {}
        for stored in events:
            snapshot_id, state_key = stored.snapshot_id, stored.event.state_key
            if state_key is None or snapshot_id is None:
                continue
            key = (stored.event.type, state_key)
            state_map = self.snapshot_nowait(snapshot_id)
            if state_map is None:
                unknown.setdefault((snapshot_id, key), []).append(stored.event_id)
            elif key in state_map:
                replaced[stored.event_id] = state_map[key]
        if unknown:
            entries = [(snapshot_id, *key) for snapshot_id, key in unknown]
            rows = await self._database.read(timelines.single_entries, entries)
            for snapshot_id, key, event_id in rows:
                for successor in unknown[(snapshot_id, key)]:
                    replaced[successor] = EventID(event_id)
        stored_events = await self._events.get(replaced.values())
        return {
            event_id: stored_events[previous]
            for event_id, previous in replaced.items()
            if previous in stored_events
        }

    async def replaced_event(self, stored: StoredEvent) -> StoredEvent | None:
        """Return the state event that a state event replaced; None if there was none."""
        return (await self.replaced_events((stored,))).get(stored.event_id)

    async def snapshot(self, snapshot_id: int) -> Snapshot:
        """Return a stored snapshot to derive others from."""
        if snapshot_id == EMPTY_SNAPSHOT:
            return state_snapshots.empty()
        state_map = await self.at_snapshot(snapshot_id)
        cached = self._snapshots.get(snapshot_id)
        # If it was too large for the cache, a wrong number of hops only costs a longer chain.
        return Snapshot(state_map, snapshot_id, 0 if cached is None else cached.hops)

    def remember_snapshot(self, snapshot: Snapshot) -> None:
        """Cache a snapshot that was just stored."""
        assert snapshot.id is not None
        derived = snapshot.hops > 0
        self._snapshots.put(snapshot.id, _CachedSnapshot(snapshot.map, derived, snapshot.hops))

    def remember_current(self, room_id: RoomID, state_map: StateMap) -> None:
        """Cache a room's current state that its owner has read, with no event pending."""
        if room_id not in self._follower:
            room = _CachedRoom(state_map, _without_members(state_map))
            room.weigh(at_most=self._rooms.limit // 2)
            self._rooms.put(room_id, room)

    async def _read_rooms(self, room_ids: list[RoomID]) -> dict[RoomID, _CachedRoom]:
        rooms = await self._database.read(_read_current, room_ids)
        return {room_id: rooms.get(room_id) or _CachedRoom(_EMPTY, _EMPTY) for room_id in room_ids}

    def _keep_room(self, room_id: RoomID, room: _CachedRoom) -> None:
        # A room without state is unknown here, and requests for such rooms must not fill the cache.
        if room.map:
            self._rooms.pop(room_id)
            room.weigh(at_most=self._rooms.limit // 2)
            self._rooms.put(room_id, room)

    async def _load_snapshot(self, snapshot_id: int) -> StateMap:
        loaded = await self._database.read(_read_snapshot, snapshot_id, self._snapshots)
        base = None if loaded.base is None else self._snapshots.get(loaded.base)
        if base is None and loaded.base is not None:
            # It was evicted in the meantime.
            loaded = await self._database.read(_read_snapshot, snapshot_id, ())
        state_map: StateMap = Map() if base is None else base.map
        state_map = _overlay(state_map, loaded.layer)
        self._snapshots.put(snapshot_id, _CachedSnapshot(state_map, base is not None, loaded.hops))
        return state_map

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._follower.invalidate_all()  # any room may have been purged
        for _, row in batch.rows:
            if row.cache == PURGED_ROOMS:
                for room_id in row.keys:
                    self._follower.invalidate(RoomID(room_id))

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            changes = row.changes()
            if not changes:
                continue
            room_id = RoomID(row.room_id)
            if _creates_room(row) and room_id not in self._rooms:
                # The state is empty here, and the feed delivers all that follows.
                self._rooms.put(room_id, _CachedRoom(_EMPTY, _EMPTY, 1))
            room = self._follower.update(room_id, changes)
            if room is not None and len(room.map) > 2 * room.entries:
                self._keep_room(room_id, room)


def _creates_room(row: EventRow) -> bool:
    """Return whether an event is an accepted create event."""
    is_create = row.type == event_types.CREATE and row.state_key == ""
    return is_create and not (row.outlier or row.rejected or row.soft_failed)


async def _read_current(tx: Tx, room_ids: list[RoomID]) -> dict[RoomID, _CachedRoom]:
    entries: dict[RoomID, dict[StateKey, EventID]] = {}
    for room_id, event_type, state_key, event_id in await state.load_current_of_rooms(tx, room_ids):
        entries.setdefault(RoomID(room_id), {})[event_type, state_key] = EventID(event_id)
    # Here and not in the task that asked, because this takes long for large rooms.
    return {
        room_id: _CachedRoom(Map(state_entries), _without_members(state_entries))
        for room_id, state_entries in entries.items()
    }


def _without_members(entries: Mapping[StateKey, EventID]) -> StateMap:
    return Map({key: each for key, each in entries.items() if key[0] != event_types.MEMBER})


async def _read_snapshot(tx: Tx, snapshot_id: int, cached: Container[int]) -> _Loaded:
    chain = await state.load_chain(tx, snapshot_id)
    hops = max(0, len(chain) - 1)
    base_index = max(
        (n for n, (snapshot_id, _) in enumerate(chain) if snapshot_id in cached), default=-1
    )
    base = chain[base_index][0] if base_index >= 0 else None
    if base is None:
        whole = state.apply_deltas({}, (delta for _, delta in chain))
        return _Loaded(hops, None, dict(await state.resolve_numbers(tx, whole)))
    changes: dict[int, int] = {}
    for _, delta in chain[base_index + 1 :]:
        changes.update(state.unpack(delta))
    set_entries = {key: n for key, n in changes.items() if n != state.REMOVED}
    layer: dict[Key, str | None] = dict(await state.resolve_numbers(tx, set_entries))
    removed = [key for key, n in changes.items() if n == state.REMOVED]
    for name in (await state.key_names(tx, removed)).values():
        layer[name] = None
    return _Loaded(hops, base, layer)


def _overlay(state_map: StateMap, layer: Mapping[Key, str | None]) -> StateMap:
    copy = state_map.mutate()
    for key, event_id in layer.items():
        if event_id is not None:
            copy[key] = EventID(event_id)
        elif key in copy:
            del copy[key]
    return copy.finish()


def _with_changes(room: _CachedRoom, changes: Iterable[StateChange]) -> _CachedRoom:
    layer = {(event_type, state_key): event_id for event_type, state_key, event_id, _ in changes}
    room.map = _overlay(room.map, layer)
    others = {key: each for key, each in layer.items() if key[0] != event_types.MEMBER}
    if others:
        room.others = _overlay(room.others, others)
    return room


def _typed(entries: Mapping[Key, str]) -> dict[StateKey, EventID]:
    return {key: EventID(event_id) for key, event_id in entries.items()}
