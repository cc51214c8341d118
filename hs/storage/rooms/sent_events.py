"""The events that one user sent into a room."""

from hs.storage.database import Tx

# Creation, membership and redaction events are not redacted with the rest.
SENT = """
SELECT event_id FROM events
WHERE room_id = $1 AND sender = $2 AND stream_id > $3 AND stream_id < $4 AND status = 0
  AND redacted_by IS NULL AND type NOT IN ('m.room.create', 'm.room.member', 'm.room.redaction')
ORDER BY stream_id DESC LIMIT $5
"""
MEMBER_EVENTS = """
SELECT stream_id, event_id FROM events
WHERE room_id = $1 AND type = 'm.room.member' AND state_key = $2 AND status = 0
  AND stream_id < $3
ORDER BY stream_id DESC LIMIT $4
"""


async def list_sent(
    tx: Tx, room_id: str, sender: str, after: int, before: int, limit: int
) -> list[str]:
    """List a user's events with stream IDs in `(after, before)` that can be redacted, newest first.

    Already redacted events are left out.
    """
    rows = await tx.fetch(SENT, room_id, sender, after, before, limit)
    return [row[0] for row in rows]


async def list_member_events(
    tx: Tx, room_id: str, user_id: str, before: int, limit: int
) -> list[tuple[int, str]]:
    """List (stream_id, event_id) of a user's member events before a stream ID, newest first."""
    rows = await tx.fetch(MEMBER_EVENTS, room_id, user_id, before, limit)
    return [(row[0], row[1]) for row in rows]
