"""Rows of reports, and what has to exist to be reported."""

from typing import NamedTuple

from hs.storage.database import Tx

ADD = """
INSERT INTO reports (id, received_ms, reporter, room_id, event_id, user_id, reason, score)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
ROOM = "SELECT 1 FROM rooms WHERE room_id = $1"
SENDER = "SELECT sender FROM events WHERE event_id = $1 AND room_id = $2 AND status <> 3"
USER = """
SELECT 1 FROM users WHERE user_id = $1
UNION ALL SELECT 1 FROM current_state WHERE state_key = $1 AND membership IS NOT NULL
LIMIT 1
"""


class Report(NamedTuple):
    """What somebody reports: a room, an event in it, or a user."""

    received_ms: int
    reporter: str
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str | None
    score: int | None


async def add(tx: Tx, report: Report) -> int:
    """Keep a report; give its number."""
    (number,) = await tx.next_ids("reports", 1)
    await tx.execute(ADD, number, *report)
    return number


async def room_exists(tx: Tx, room_id: str) -> bool:
    """Tell whether a room is known."""
    return await tx.fetchval(ROOM, room_id) is not None


async def sender_of(tx: Tx, event_id: str, room_id: str) -> str | None:
    """Give the sender of an event of a room."""
    sender: str | None = await tx.fetchval(SENDER, event_id, room_id)
    return sender


async def user_exists(tx: Tx, user_id: str) -> bool:
    """Tell whether a user has an account here, or was seen in a room."""
    return await tx.fetchval(USER, user_id) is not None
