"""What lists of rooms are ordered and filtered by, of each room, kept exact by the feed."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import EVENTS
from hs.storage.database import Database, Tx
from hs.storage.sync import sliding_sync
from hs.storage.sync.sliding_sync import FactsRecord

MAX_ROOMS: Final = 200_000

# Events that say that somebody is there. Spec: MSC4186, `bump_stamp`.
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
class RoomFacts:
    """One room: when it was last active, and what else decides where it is listed.

    `bump` is the last event that says that somebody is there, `last` the last of any kind. Only
    these change; when anything else does, another object takes its place.
    """

    bump: int = 0
    name: str | None = None
    avatar_url: str | None = None
    is_encrypted: bool = False
    room_type: str | None = None
    is_known: bool = False  # its state is here
    last: int = 0


class Activity:
    """The facts of all rooms that somebody lists."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._rooms: dict[RoomID, RoomFacts] = {}
        # For each room being read, how many read it, and how often the feed told of it meanwhile.
        self._reading: Counter[RoomID] = Counter()
        self._news: Counter[RoomID] = Counter()
        feed.subscribe(EVENTS, self._on_events)

    def get_nowait(self, room_id: RoomID) -> RoomFacts | None:
        """Give the facts of a room that is in memory."""
        return self._rooms.get(room_id)

    async def of(self, room_ids: Collection[RoomID]) -> Mapping[RoomID, RoomFacts]:
        """Give the facts of rooms; they live. Those missing are read by two statements."""
        held = self._rooms
        wanted = missing = [room_id for room_id in room_ids if room_id not in held]
        if not missing:
            return held
        found = {room_id: held[room_id] for room_id in room_ids if room_id in held}
        self._reading.update(missing)
        try:
            while missing:
                before = {room_id: self._news[room_id] for room_id in missing}
                read = await self._database.read(_read, missing)
                fresh = [one for one in missing if self._news[one] == before[one]]
                for room_id in fresh:
                    found[room_id] = held.setdefault(room_id, read[room_id])
                missing = [room_id for room_id in missing if room_id not in found]
        finally:
            self._stop_reading(wanted)
        while len(held) > MAX_ROOMS:
            del held[next(iter(held))]
        return found

    def _stop_reading(self, room_ids: Collection[RoomID]) -> None:
        self._reading.subtract(room_ids)
        for room_id in room_ids:
            if not self._reading[room_id]:
                del self._reading[room_id]
                self._news.pop(room_id, None)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if row.outlier or row.rejected or row.soft_failed:
                continue
            room_id = RoomID(row.room_id)
            if room_id in self._reading:
                self._news[room_id] += 1
            held = self._rooms.get(room_id)
            if held is None:
                continue
            held.last = max(held.last, stream_id)
            if row.type in BUMP_TYPES and stream_id > held.bump:
                held.bump = stream_id
            if row.state_key is not None or row.state_changes is not None:
                if any(one[0] in _SHOWN_TYPES and one[1] == "" for one in row.changes()):
                    del self._rooms[room_id]
            elif row.redaction_applies:
                # It may have taken a name away.
                del self._rooms[room_id]


async def _read(tx: Tx, room_ids: list[RoomID]) -> dict[RoomID, RoomFacts]:
    bumps = await sliding_sync.bumps(tx, room_ids, sorted(BUMP_TYPES))
    records = {one.room_id: one for one in await sliding_sync.facts(tx, room_ids)}
    return {
        room_id: _facts(records.get(room_id), *bumps.get(room_id, (0, 0))) for room_id in room_ids
    }


def _facts(record: FactsRecord | None, bump: int, last: int) -> RoomFacts:
    # Events from before our time have negative numbers.
    bump, last = max(0, bump), max(0, last)
    if record is None:
        return RoomFacts(bump, last=last)
    return RoomFacts(
        bump,
        record.name or None,
        record.avatar_url,
        record.encryption is not None,
        record.room_type,
        is_known=True,
        last=last,
    )
