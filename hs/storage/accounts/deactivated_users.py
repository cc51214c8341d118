"""Deactivated users who are still in rooms."""

from hs.core.ids import UserID
from hs.storage.database import Tx

STILL_IN_ROOMS = """
SELECT DISTINCT users.user_id FROM users
JOIN local_memberships AS m ON m.user_id = users.user_id
WHERE users.is_deactivated = 1 AND m.membership IN ('join', 'invite', 'knock')
ORDER BY users.user_id LIMIT 1000
"""


async def list_still_in_rooms(tx: Tx) -> list[UserID]:
    """List deactivated users who have not left all their rooms, at most 1000."""
    return [UserID(row[0]) for row in await tx.fetch(STILL_IN_ROOMS)]
