"""Finding an annotation that somebody has already made."""

from hs.storage.database import Tx

FIND = """
SELECT event_id FROM relations
WHERE parent_id = $1 AND rel_type = 'm.annotation' AND type = $2 AND sender = $3
  AND aggregation_key = $4
LIMIT 1
"""


async def find(tx: Tx, parent_id: str, event_type: str, sender: str, key: str) -> str | None:
    """Give the event by which a user says `key` of another event."""
    found: str | None = await tx.fetchval(FIND, parent_id, event_type, sender, key)
    return found
