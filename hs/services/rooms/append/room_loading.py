"""Reading a room from the database into the memory of its owner."""

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
from hs.storage.rooms.events import FoundEvent
from hs.storage.rooms.rooms import SummaryRecord

_KEPT_KEYS: tuple[StateKey, ...] = (
    event_types.CREATE_KEY,
    event_types.POWER_LEVELS_KEY,
    event_types.JOIN_RULES_KEY,
)


class RoomRecord(NamedTuple):
    """All that is read of a room, as of one moment."""

    snapshot_id: int
    hops: int
    depth: int
    extremities: list[str]
    summary: SummaryRecord
    map: StateMap
    members: Map[str, str]
    found: list[FoundEvent]


async def read_room(tx: Tx, room_id: str) -> RoomRecord | None:
    """Read a room whole; None if this server has no state of it."""
    head = await rooms.head(tx, room_id)
    if head is None:
        return None
    entries = await state.current(tx, room_id)
    extremities: list[str] = orjson.loads(head.extremities)
    held: dict[StateKey, str] = {(one.type, one.state_key): one.event_id for one in entries}
    wanted = {*extremities, *(held[key] for key in _KEPT_KEYS if key in held)}
    return RoomRecord(
        head.snapshot_id,
        await state.hops_of(tx, head.snapshot_id),
        head.depth,
        extremities,
        await rooms.summary(tx, room_id) or SummaryRecord(),
        Map((key, EventID(event_id)) for key, event_id in held.items()),
        Map((one.state_key, one.membership) for one in entries if one.membership is not None),
        await events.find(tx, sorted(wanted)),
    )


def make_room(room_id: RoomID, record: RoomRecord, store: EventStore) -> HotRoom | None:
    """Make the room of what was read; None if its create event is not part of its state."""
    found: dict[str, Event] = {
        stored.event_id: stored.counting for stored in store.keep_found(record.found)
    }
    kept = {
        key: found[record.map[key]]
        for key in _KEPT_KEYS
        if key in record.map and record.map[key] in found
    }
    create = kept.get(event_types.CREATE_KEY)
    if create is None:
        return None
    head = RoomHead(
        snapshot=Snapshot(record.map, record.snapshot_id, record.hops),
        extremities=tuple(extremity(found[one]) for one in record.extremities if one in found),
        depth=record.depth,
        events=Map(kept),
        members=record.members,
        summary=record.summary,
        power=PowerLevels.of(kept.get(event_types.POWER_LEVELS_KEY), create, create.rules),
    )
    return HotRoom(room_id, create, head)
