"""The events table: inserting events, finding them by ID, redactions, backward extremities."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rooms.stored_pdus import compress_pdu, expand_pdu
from hs.storage.rows import InsertRows, UpdateRows


class EventRecord(NamedTuple):
    """A row of the events table, with its PDU as signed; the fields are the columns of INSERT."""

    stream_id: int
    writer: str
    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str
    depth: int
    origin_server_ts: int
    snapshot_id: int | None
    status: int
    contains_url: int
    redacted_by: str | None
    pdu: bytes


class LoadedEvent(NamedTuple):
    """A stored event as loaded: its bytes, its room's version, and the server's data about it."""

    stream_id: int
    writer: str
    event_id: str
    snapshot_id: int | None
    status: int
    contains_url: int
    redacted_by: str | None
    version: str
    pdu: bytes


INSERT = InsertRows(
    "events",
    "stream_id bigint, writer text, event_id text, room_id text, type text, state_key text, "
    "sender text, depth bigint, origin_server_ts bigint, snapshot_id bigint, status smallint, "
    "contains_url smallint, redacted_by text, pdu bytea",
)
_SELECT = """
SELECT e.stream_id, e.writer, e.event_id, e.snapshot_id, e.status, e.contains_url,
       e.redacted_by, r.version, e.pdu
FROM events e JOIN rooms r ON r.room_id = e.room_id
"""
BY_ID = sql(lambda d: f"{_SELECT} WHERE {d.any_of('e.event_id', 1, 'text')}")
BY_STREAM_ID = sql(lambda d: f"{_SELECT} WHERE {d.any_of('e.stream_id', 1, 'bigint')}")
PDUS_BY_ID = sql(
    lambda d: (
        "SELECT event_id, pdu FROM events WHERE redacted_by IS NULL "
        f"AND {d.any_of('event_id', 1, 'text')}"
    )
)
_OF_STATES = (
    "SELECT e.event_id, e.pdu FROM current_state c JOIN events e ON e.stream_id = c.stream_id "
    "WHERE e.redacted_by IS NULL"
)
PDUS_OF_STATES = sql(lambda d: f"{_OF_STATES} AND {d.any_of('c.room_id', 1, 'text')}")
PDUS_OF_STATES_WITHOUT_MEMBERS = sql(
    lambda d: f"{_OF_STATES} AND c.membership IS NULL AND {d.any_of('c.room_id', 1, 'text')}"
)
PDUS_BY_STREAM_ID = sql(
    lambda d: (
        f"SELECT event_id, redacted_by, pdu FROM events WHERE {d.any_of('stream_id', 1, 'bigint')}"
    )
)
KNOWN = sql(
    lambda d: f"SELECT event_id, stream_id FROM events WHERE {d.any_of('event_id', 1, 'text')}"
)
IDS_OF_STREAM_IDS = sql(
    lambda d: f"SELECT stream_id, event_id FROM events WHERE {d.any_of('stream_id', 1, 'bigint')}"
)
STREAM_IDS_AND_SENDERS = sql(
    lambda d: (
        f"SELECT event_id, stream_id, sender FROM events WHERE {d.any_of('event_id', 1, 'text')}"
    )
)
INSERT_REDACTIONS = InsertRows(
    "redactions",
    "redaction_id text, room_id text, redacts text, sender text",
    conflict="ON CONFLICT (redaction_id) DO NOTHING",
)
SET_REDACTED = UpdateRows("events", key="event_id text", values="redacted_by text")
REDACTIONS_OF = sql(
    lambda d: (
        "SELECT redacts, redaction_id, sender FROM redactions "
        f"WHERE {d.any_of('redacts', 1, 'text')} ORDER BY redaction_id"
    )
)
SET_STATUS = UpdateRows("events", key="event_id text", values="status smallint")
SET_PLACE = UpdateRows("events", key="event_id text", values="snapshot_id bigint, status smallint")
ADD_PLACED = InsertRows(
    "placed_outliers", "position bigint, writer text, number bigint, room_id text"
)
ADD_BACKWARD = InsertRows(
    "backward_extremities",
    "room_id text, event_id text, depth bigint",
    conflict=(
        "ON CONFLICT (room_id, event_id) DO UPDATE SET depth = CASE "
        "WHEN excluded.depth > backward_extremities.depth THEN excluded.depth "
        "ELSE backward_extremities.depth END"
    ),
)
REMOVE_BACKWARD = sql(
    lambda d: f"DELETE FROM backward_extremities WHERE {d.any_of('event_id', 1, 'text')}"
)

LACKING_AMONG = sql(
    lambda d: f"SELECT event_id FROM backward_extremities WHERE {d.any_of('event_id', 1, 'text')}"
)


async def insert(tx: Tx, records: Sequence[EventRecord]) -> None:
    """Insert events.

    Raises: UniqueViolation, by the end of the unit, if one of them is stored already.
    """
    await tx.insert_rows(INSERT, [(*record[:-1], compress_pdu(record.pdu)) for record in records])


async def find(tx: Tx, event_ids: Sequence[str]) -> list[LoadedEvent]:
    """Return those of the events that are stored, in no particular order."""
    return [_loaded(row) for row in await tx.fetch(BY_ID, list(event_ids))]


async def find_pdus(tx: Tx, event_ids: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return (event_id, pdu) of those of the events that are stored and not redacted."""
    rows = await tx.fetch(PDUS_BY_ID, list(event_ids))
    return [(row[0], expand_pdu(row[1])) for row in rows]


async def find_pdus_of_states(
    tx: Tx, room_ids: Sequence[str], with_members: bool
) -> list[tuple[str, bytes]]:
    """Return (event_id, pdu) of the events of current states, those that are not redacted."""
    statement = PDUS_OF_STATES if with_members else PDUS_OF_STATES_WITHOUT_MEMBERS
    return [(row[0], expand_pdu(row[1])) for row in await tx.fetch(statement, list(room_ids))]


async def find_stored_pdus(tx: Tx, stream_ids: Sequence[int]) -> Sequence[Row]:
    """Return (event_id, redacted_by, pdu) of events, in no particular order.

    The PDUs are as they are stored: `expand_pdu` returns the PDU.
    """
    return await tx.fetch(PDUS_BY_STREAM_ID, list(stream_ids))


async def find_by_stream_id(tx: Tx, stream_ids: Sequence[int]) -> list[LoadedEvent]:
    """Return the events with these stream IDs, in no particular order."""
    return [_loaded(row) for row in await tx.fetch(BY_STREAM_ID, list(stream_ids))]


async def stream_ids_of(tx: Tx, event_ids: Sequence[str]) -> dict[str, int]:
    """Return the stream IDs of those events that are stored."""
    return {row[0]: row[1] for row in await tx.fetch(KNOWN, list(event_ids))}


async def stream_ids_and_senders(tx: Tx, event_ids: Sequence[str]) -> list[tuple[str, int, str]]:
    """List (event_id, stream_id, sender) of those events that are stored."""
    return [
        (row[0], row[1], row[2]) for row in await tx.fetch(STREAM_IDS_AND_SENDERS, list(event_ids))
    ]


async def event_ids_of(tx: Tx, stream_ids: Sequence[int]) -> dict[int, str]:
    """Return the event IDs of stream IDs."""
    return {row[0]: row[1] for row in await tx.fetch(IDS_OF_STREAM_IDS, list(stream_ids))}


async def add_redactions(tx: Tx, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Store redactions (redaction_id, room_id, redacts, sender), whether in force or not."""
    await tx.insert_rows(INSERT_REDACTIONS, rows)


async def set_redacted(tx: Tx, pairs: Sequence[tuple[str, str]]) -> None:
    """Mark events as redacted: (event_id, redaction_id), each event at most once."""
    await tx.update_rows(SET_REDACTED, pairs)


async def list_redactions(tx: Tx, event_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """List (redacted event, redaction, its sender) for these events, whether in force or not."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(REDACTIONS_OF, list(event_ids))]


async def set_status(tx: Tx, pairs: Sequence[tuple[str, int]]) -> None:
    """Set the status of events: (event_id, status)."""
    await tx.update_rows(SET_STATUS, pairs)


async def place_outliers(tx: Tx, rows: Sequence[tuple[str, int, int]]) -> None:
    """Turn outliers into events of the graph: (event_id, snapshot_id, status)."""
    await tx.update_rows(SET_PLACE, rows)


async def add_placed_outliers(tx: Tx, rows: Sequence[tuple[int, str, int, str]]) -> None:
    """Store where outliers were placed: (position, writer, stream_id of the event, room_id).

    The positions of history are negative.
    """
    await tx.insert_rows(ADD_PLACED, rows)


async def add_backward_extremities(tx: Tx, rows: Sequence[tuple[str, str, int]]) -> None:
    """Store backward extremities, events that are cited and missing.

    `rows` are (room_id, event_id, depth of the event that cites it).
    """
    await tx.insert_rows(ADD_BACKWARD, rows)


async def backward_extremities_among(tx: Tx, event_ids: Sequence[str]) -> list[str]:
    """Return those of the events that are backward extremities."""
    return [row[0] for row in await tx.fetch(LACKING_AMONG, list(event_ids))]


async def remove_backward_extremities(tx: Tx, event_ids: Sequence[str]) -> None:
    """Delete backward extremities whose events are stored now."""
    await tx.execute(REMOVE_BACKWARD, list(event_ids))


def _loaded(row: Row) -> LoadedEvent:
    return LoadedEvent._make((*row[:8], expand_pdu(row[8])))
