"""Reports of rooms, events and users, and checks that their subjects exist."""

from typing import NamedTuple

from hs.storage.database import Tx

ADD = """
INSERT INTO reports (id, received_ms, reporter, room_id, event_id, user_id, reason, score)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
DELETE_OLDEST = """
DELETE FROM reports WHERE reporter = $1 AND id <= (
    SELECT id FROM reports WHERE reporter = $1 ORDER BY id DESC LIMIT 1 OFFSET $2
)
"""
ROOM = "SELECT 1 FROM rooms WHERE room_id = $1"
SENDER = "SELECT sender FROM events WHERE event_id = $1 AND room_id = $2 AND status <> 3"
USER = """
SELECT 1 FROM users WHERE user_id = $1
UNION ALL SELECT 1 FROM current_state WHERE state_key = $1 AND membership IS NOT NULL
LIMIT 1
"""


class ReportRecord(NamedTuple):
    """A report of a room, of an event in a room, or of a user."""

    received_ms: int
    reporter: str
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str | None
    score: int | None


async def add(tx: Tx, report: ReportRecord, kept: int) -> int:
    """Insert a report; return its number.

    The reporter's oldest reports are deleted, except the latest `kept`.
    """
    (number,) = await tx.next_ids("reports", 1)
    await tx.execute(ADD, number, *report)
    await tx.execute(DELETE_OLDEST, report.reporter, kept)
    return number


async def room_exists(tx: Tx, room_id: str) -> bool:
    """Return whether a room is known."""
    return await tx.fetchval(ROOM, room_id) is not None


async def sender_of(tx: Tx, event_id: str, room_id: str) -> str | None:
    """Return the sender of an event in a room."""
    sender: str | None = await tx.fetchval(SENDER, event_id, room_id)
    return sender


async def user_exists(tx: Tx, user_id: str) -> bool:
    """Return whether a user has an account here or is mentioned in a room's membership."""
    return await tx.fetchval(USER, user_id) is not None
