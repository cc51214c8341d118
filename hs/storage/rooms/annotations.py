"""Lookup of an annotation (reaction) that a user has already sent."""

from hs.storage.database import Tx

FIND = """
SELECT event_id FROM relations
WHERE parent_id = $1 AND rel_type = 'm.annotation' AND type = $2 AND sender = $3
  AND aggregation_key = $4
LIMIT 1
"""


async def find_annotation(
    tx: Tx, parent_id: str, event_type: str, sender: str, key: str
) -> str | None:
    """Return the ID of the event by which `sender` annotates the parent with `key`."""
    event_id: str | None = await tx.fetchval(FIND, parent_id, event_type, sender, key)
    return event_id
