"""Which users' devices and keys changed when."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.rows import Rows

INSERT = Rows(
    "device_list_changes",
    "stream_id bigint, user_id text, device_id text, is_private smallint, created_ms bigint",
)
CHANGED = """
SELECT DISTINCT user_id FROM device_list_changes
WHERE stream_id > $1 AND stream_id <= $2 AND (is_private = 0 OR user_id = $3)
"""
# Only the last change of each user is needed of those that are old.
PRUNE = """
DELETE FROM device_list_changes WHERE created_ms < $1 AND EXISTS (
SELECT 1 FROM device_list_changes later WHERE later.user_id = device_list_changes.user_id
AND later.stream_id > device_list_changes.stream_id
AND later.is_private <= device_list_changes.is_private)
"""
ROOMS_OF = "SELECT room_id FROM current_state WHERE state_key = $1 AND membership = 'join'"


async def add(tx: Tx, changes: Sequence[tuple[int, str, str | None, int, int]]) -> None:
    """Note changes: (stream_id, user_id, device_id, is_private, created_ms)."""
    await tx.insert_rows(INSERT, changes)


async def changed(tx: Tx, after: int, upto: int, viewer: str) -> list[str]:
    """List the users with a change in `(after, upto]` that a user may hear of."""
    return [row[0] for row in await tx.fetch(CHANGED, after, upto, viewer)]


async def prune(tx: Tx, before_ms: int) -> int:
    """Forget changes older than a time that a later one of the same user supersedes."""
    return await tx.execute(PRUNE, before_ms)


async def rooms_of(tx: Tx, user_id: str) -> list[str]:
    """List the rooms that any user is joined to."""
    return [row[0] for row in await tx.fetch(ROOMS_OF, user_id)]
