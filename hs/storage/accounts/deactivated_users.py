"""Finding users who are gone for good and still in rooms."""

from hs.core.ids import UserID
from hs.storage.database import Tx

LEFT_BEHIND = """
SELECT DISTINCT users.user_id FROM users
JOIN local_memberships AS own ON own.user_id = users.user_id
WHERE users.is_deactivated = 1 AND own.membership IN ('join', 'invite', 'knock')
ORDER BY users.user_id LIMIT 1000
"""


async def left_behind(tx: Tx) -> list[UserID]:
    """List deactivated users who have not left all their rooms."""
    return [UserID(row[0]) for row in await tx.fetch(LEFT_BEHIND)]
