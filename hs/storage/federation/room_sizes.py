"""How large rooms are, for servers that may join them."""

from typing import Final

from hs.storage.database import Tx

COUNT_STATE: Final = "SELECT count(*) FROM current_state WHERE room_id = $1"
MEMBERS: Final = """
SELECT state_key FROM current_state
WHERE room_id = $1 AND membership IN ('join', 'invite') AND state_key LIKE $2 ESCAPE '!' LIMIT 1
"""


async def count_state(tx: Tx, room_id: str) -> int:
    """Return the number of events in the current state of a room."""
    count: int = await tx.fetchval(COUNT_STATE, room_id)
    return count


async def has_member_of(tx: Tx, room_id: str, server: str) -> bool:
    """Return whether a user of a server is in a room or invited to it."""
    suffix = server.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return await tx.fetchval(MEMBERS, room_id, f"%:{suffix}") is not None
