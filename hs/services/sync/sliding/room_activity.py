"""The properties of rooms that room lists are ordered and filtered by, updated by the feed.

Rules:

- Only the stream IDs of the last events are updated in place. Any other change drops the object,
  and the next reader loads a new one. A result that was computed from an object is therefore still
  valid, but for the order, if the same object is still in memory.
- A loaded object does not miss an event that the feed delivered during the read: see KeyFollower.
- Above `MAX_ROOMS` rooms the oldest are dropped. Readers keep the objects that they got.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.streams import EVENTS, EventRow
from hs.repl.feed import Batch, Feed
from hs.repl.followers import KeyFollower
from hs.storage.database import Database, Tx
from hs.storage.sync import sliding_sync
from hs.storage.sync.sliding_sync import RoomListFacts

MAX_ROOMS: Final = 200_000

# Types of events that count as activity. Spec: MSC4186, `bump_stamp`.
BUMP_TYPES: Final = frozenset(
    (
        event_types.CREATE,
        event_types.MESSAGE,
        event_types.ENCRYPTED,
        event_types.STICKER,
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    )
)
_SHOWN_TYPES: Final = frozenset(
    (event_types.NAME, event_types.AVATAR, event_types.ENCRYPTION, event_types.CREATE)
)


@attrs.define(eq=False)
class RoomListProperties:
    """One room: its last activity, and the other facts that decide where it is listed.

    `bump_stream_id` belongs to the last event of `BUMP_TYPES`, `last_stream_id` to the last event
    of any type. Only these two change; another object takes its place when any other fact changes.
    """

    bump_stream_id: int = 0
    name: str | None = None
    avatar_url: str | None = None
    is_encrypted: bool = False
    room_type: str | None = None
    has_state: bool = False  # whether its state is stored here
    last_stream_id: int = 0


_RoomEvent = tuple[int, bool]  # its stream ID, and whether it is of BUMP_TYPES


@attrs.frozen(eq=False)
class _RoomEntries:
    """The facts of at most `MAX_ROOMS` rooms; those that were read first are dropped first."""

    by_room: dict[RoomID, RoomListProperties] = attrs.Factory(dict)

    def get(self, key: RoomID) -> RoomListProperties | None:
        return self.by_room.get(key)

    def get_cached(self, keys: Iterable[RoomID]) -> dict[RoomID, RoomListProperties]:
        by_room = self.by_room
        return {room_id: by_room[room_id] for room_id in keys if room_id in by_room}

    def put(self, key: RoomID, value: RoomListProperties) -> None:
        self.by_room[key] = value
        if len(self.by_room) > MAX_ROOMS:
            del self.by_room[next(iter(self.by_room))]

    def pop(self, key: RoomID) -> None:
        self.by_room.pop(key, None)

    def clear(self) -> None:
        self.by_room.clear()

    def __contains__(self, key: object) -> bool:
        return key in self.by_room


class RoomActivity:
    """The facts of all rooms that are in the list of some client."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._rooms = _RoomEntries()
        self._follower = KeyFollower(self._rooms, self._read_facts, _with_event)
        feed.subscribe(EVENTS, self._on_events)

    def get_nowait(self, room_id: RoomID) -> RoomListProperties | None:
        """Return the facts of a room if they are in memory."""
        return self._rooms.get(room_id)

    async def of(self, room_ids: Collection[RoomID]) -> Mapping[RoomID, RoomListProperties]:
        """Return the facts of rooms and perhaps of others; they change with the feed.

        The rooms that are not in memory are read by two statements.
        """
        by_room = self._rooms.by_room
        if all(room_id in by_room for room_id in room_ids):
            return by_room
        return await self._follower.get_many(room_ids)

    async def _read_facts(self, room_ids: list[RoomID]) -> dict[RoomID, RoomListProperties]:
        return await self._database.read(_read, room_ids)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if not row.is_shown:
                continue
            room_id = RoomID(row.room_id)
            if room_id not in self._follower:
                continue
            if _changes_facts(row):
                self._follower.invalidate(room_id)
            else:
                self._follower.update(room_id, (stream_id, row.type in BUMP_TYPES))


def _changes_facts(row: EventRow) -> bool:
    """Return whether a row may change facts that it does not carry."""
    if row.state_key is not None or row.state_changes is not None:
        return any(
            event_type in _SHOWN_TYPES and state_key == ""
            for event_type, state_key, _, _ in row.changes()
        )
    # A redaction may have removed the name of the room.
    return row.redaction_applies


def _with_event(facts: RoomListProperties, event: _RoomEvent) -> RoomListProperties:
    stream_id, is_bump = event
    if stream_id > facts.last_stream_id:
        facts.last_stream_id = stream_id
    if is_bump and stream_id > facts.bump_stream_id:
        facts.bump_stream_id = stream_id
    return facts


async def _read(tx: Tx, room_ids: list[RoomID]) -> dict[RoomID, RoomListProperties]:
    bumps = await sliding_sync.load_bump_stamps(tx, room_ids, sorted(BUMP_TYPES))
    records = {record.room_id: record for record in await sliding_sync.load_facts(tx, room_ids)}
    return {
        room_id: _facts(records.get(room_id), *bumps.get(room_id, (0, 0))) for room_id in room_ids
    }


def _facts(record: RoomListFacts | None, bump: int, last: int) -> RoomListProperties:
    # Backfilled events have negative numbers.
    bump, last = max(0, bump), max(0, last)
    if record is None:
        return RoomListProperties(bump, last_stream_id=last)
    return RoomListProperties(
        bump,
        record.name or None,
        record.avatar_url,
        record.encryption is not None,
        record.room_type,
        has_state=True,
        last_stream_id=last,
    )
