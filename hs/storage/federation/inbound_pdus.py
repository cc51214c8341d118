"""PDUs of other servers that wait for the events that they cite.

A queue is the PDUs of one room that one server has sent.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rooms.stored_pdus import compress_pdu, expand_pdu
from hs.storage.rows import InsertRows

_OF_QUEUE = "FROM inbound_pdus WHERE room_id = $1 AND origin = $2"
INSERT = InsertRows(
    "inbound_pdus",
    "room_id text, origin text, event_id text, depth bigint, received_ms bigint, pdu bytea",
    conflict="ON CONFLICT (room_id, origin, event_id) DO NOTHING",
)
COUNT = f"SELECT count(*) {_OF_QUEUE}"
OLDEST = (
    f"SELECT event_id, depth, received_ms, pdu {_OF_QUEUE} ORDER BY received_ms, depth LIMIT $3"
)
QUEUES = """
SELECT room_id, origin, count(*), min(received_ms) FROM inbound_pdus GROUP BY room_id, origin
"""
DELETE = sql(lambda d: f"DELETE {_OF_QUEUE} AND {d.any_of('event_id', 3, 'text')}")


class WaitingPdu(NamedTuple):
    """A PDU that waits."""

    event_id: str
    depth: int
    received_ms: int
    pdu: bytes


class PduQueue(NamedTuple):
    """A queue with its length and the time of its oldest PDU."""

    room_id: str
    origin: str
    length: int
    oldest_ms: int


async def add(
    tx: Tx, room_id: str, origin: str, pdus: Sequence[WaitingPdu], most: int
) -> int | None:
    """Add PDUs to a queue; those that are there stay as they are.

    Return the length of the queue; None, and add nothing, if it might exceed `most`.
    """
    length: int = await tx.fetchval(COUNT, room_id, origin)
    if length + len(pdus) > most:
        return None
    await tx.insert_rows(
        INSERT,
        [
            (room_id, origin, pdu.event_id, pdu.depth, pdu.received_ms, compress_pdu(pdu.pdu))
            for pdu in pdus
        ],
    )
    return length + len(pdus)


async def list_queues(tx: Tx) -> list[PduQueue]:
    """List all queues."""
    return [PduQueue(*row) for row in await tx.fetch(QUEUES)]


async def oldest(tx: Tx, room_id: str, origin: str, limit: int) -> list[WaitingPdu]:
    """Return the PDUs at the head of a queue."""
    rows = await tx.fetch(OLDEST, room_id, origin, limit)
    return [WaitingPdu(row[0], row[1], row[2], expand_pdu(row[3])) for row in rows]


async def delete(tx: Tx, room_id: str, origin: str, event_ids: Collection[str]) -> int:
    """Delete PDUs from a queue; return its length."""
    await tx.execute(DELETE, room_id, origin, list(event_ids))
    length: int = await tx.fetchval(COUNT, room_id, origin)
    return length
