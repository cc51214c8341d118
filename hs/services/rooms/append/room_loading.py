"""Load a room from the database into the memory of its owner."""

from typing import NamedTuple

import orjson
from immutables import Map

from hs.core.auth.power_levels import PowerLevels
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID
from hs.services.rooms.append.hot_room import HotRoom, RoomHead, extremity
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_snapshots import Snapshot, StateMap
from hs.storage.database import Tx
from hs.storage.rooms import events, rooms, state
from hs.storage.rooms.events import LoadedEvent
from hs.storage.rooms.rooms import RoomSummaryRecord

_LOADED_KEYS: tuple[StateKey, ...] = (
    event_types.CREATE_KEY,
    event_types.POWER_LEVELS_KEY,
    event_types.JOIN_RULES_KEY,
)


class LoadedRoom(NamedTuple):
    """The rows of one room, read in one transaction."""

    snapshot_id: int
    hops: int
    depth: int
    extremities: list[str]
    summary: RoomSummaryRecord
    map: StateMap
    members: Map[str, str]
    auth_events_and_extremities: list[LoadedEvent]


async def load_room(tx: Tx, room_id: str) -> LoadedRoom | None:
    """Load a room; return None if this server has no state of it."""
    head = await rooms.head(tx, room_id)
    if head is None:
        return None
    extremities: list[str] = orjson.loads(head.extremities)
    current: dict[StateKey, EventID] = {}
    members: dict[str, str] = {}
    for event_type, state_key, event_id, membership in await state.load_current(tx, room_id):
        current[event_type, state_key] = event_id
        if membership is not None:
            members[state_key] = membership
    event_ids = {*extremities, *(current[key] for key in _LOADED_KEYS if key in current)}
    return LoadedRoom(
        snapshot_id=head.snapshot_id,
        hops=await state.hops_of(tx, head.snapshot_id),
        depth=head.depth,
        extremities=extremities,
        summary=await rooms.summary(tx, room_id) or RoomSummaryRecord(),
        map=Map(current),
        members=Map(members),
        auth_events_and_extremities=await events.find(tx, sorted(event_ids)),
    )


def build_hot_room(room_id: RoomID, record: LoadedRoom, store: EventStore) -> HotRoom | None:
    """Build the hot room from its rows; return None if its state has no create event."""
    events: dict[str, Event] = {
        stored.event_id: stored.effective_event
        for stored in store.add_records(record.auth_events_and_extremities)
    }
    loaded = {
        key: events[record.map[key]]
        for key in _LOADED_KEYS
        if key in record.map and record.map[key] in events
    }
    create = loaded.get(event_types.CREATE_KEY)
    if create is None:
        return None
    head = RoomHead(
        snapshot=Snapshot(record.map, record.snapshot_id, record.hops),
        extremities=tuple(extremity(events[each]) for each in record.extremities if each in events),
        depth=record.depth,
        events=Map(loaded),
        members=record.members,
        summary=record.summary,
        power=PowerLevels.of(loaded.get(event_types.POWER_LEVELS_KEY), create, create.rules),
    )
    return HotRoom(room_id, create, head)
