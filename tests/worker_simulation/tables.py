"""What the database of a simulated server contains."""

from collections.abc import Mapping

import attrs
import orjson

from hs.storage.database import Row, Tx
from hs.storage.inline import InlineDatabase
from hs.storage.rooms.stored_pdus import expand_pdu

_EVENTS = """
SELECT stream_id, writer, event_id, room_id, type, state_key, sender, status, pdu FROM events
ORDER BY stream_id
"""
_STATE = "SELECT room_id, type, state_key, event_id FROM current_state"
_POSITIONS = "SELECT stream, writer, position FROM stream_positions"
_RECEIPTS = """
SELECT room_id, user_id, event_id, event_stream_id FROM receipts
WHERE receipt_type = 'm.read' AND thread_id = ''
"""
_ACCOUNT_DATA = "SELECT user_id, room_id, type, content FROM account_data"


@attrs.frozen(eq=False)
class TableEvent:
    """A stored event."""

    stream_id: int
    writer: str
    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str
    status: int
    prev_events: tuple[str, ...]
    content: Mapping[str, object]

    @property
    def membership(self) -> object:
        """The membership that the event sets, if it is one of that."""
        return self.content.get("membership") if self.type == "m.room.member" else None


@attrs.frozen(eq=False)
class Tables:
    """All that the invariants compare with."""

    events: dict[str, TableEvent]
    state: dict[str, dict[tuple[str, str], str]]
    positions: dict[tuple[str, str], int]
    receipts: dict[tuple[str, str], tuple[str, int]]
    account_data: dict[tuple[str, str, str], object]

    def room(self, room_id: str) -> list[TableEvent]:
        """Return the events of a room, oldest first."""
        return [event for event in self.events.values() if event.room_id == room_id]


async def read_tables(database: InlineDatabase) -> Tables:
    """Read everything."""
    return await database.read(_read)


async def _read(tx: Tx) -> Tables:
    events = {row[2]: _event(row) for row in await tx.fetch(_EVENTS)}
    state: dict[str, dict[tuple[str, str], str]] = {}
    for row in await tx.fetch(_STATE):
        state.setdefault(row[0], {})[row[1], row[2]] = row[3]
    return Tables(
        events=events,
        state=state,
        positions={(row[0], row[1]): row[2] for row in await tx.fetch(_POSITIONS)},
        receipts={(row[0], row[1]): (row[2], row[3] or 0) for row in await tx.fetch(_RECEIPTS)},
        account_data={
            (row[0], row[1], row[2]): orjson.loads(row[3]) for row in await tx.fetch(_ACCOUNT_DATA)
        },
    )


def _event(row: Row) -> TableEvent:
    pdu = orjson.loads(expand_pdu(row[8]))
    names = [field.name for field in attrs.fields(TableEvent)[:8]]
    return TableEvent(
        **dict(zip(names, row, strict=False)),
        prev_events=tuple(pdu["prev_events"]),
        content=pdu["content"],
    )
