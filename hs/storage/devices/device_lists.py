"""Which users' devices and keys changed when."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.rows import Rows

INSERT = Rows(
    "device_list_changes",
    "stream_id bigint, user_id text, device_id text, is_private smallint, created_ms bigint, "
    "target_user_id text",
)
CHANGED = """
SELECT DISTINCT user_id FROM device_list_changes
WHERE stream_id > $1 AND stream_id <= $2 AND is_private = 0
"""
SIGNED = """
SELECT DISTINCT COALESCE(target_user_id, user_id) FROM device_list_changes
WHERE stream_id > $1 AND stream_id <= $2 AND is_private = 1 AND user_id = $3
"""
# Only the last change of each user is needed of those that are old, or the last signing of each.
PRUNE = """
DELETE FROM device_list_changes WHERE created_ms < $1 AND EXISTS (
SELECT 1 FROM device_list_changes later WHERE later.user_id = device_list_changes.user_id
AND later.stream_id > device_list_changes.stream_id
AND later.is_private = device_list_changes.is_private
AND COALESCE(later.target_user_id, '') = COALESCE(device_list_changes.target_user_id, ''))
"""
ROOMS_OF = "SELECT room_id FROM current_state WHERE state_key = $1 AND membership = 'join'"


async def add(tx: Tx, changes: Sequence[tuple[int, str, str | None, int]]) -> None:
    """Note changes that others may hear of: (stream_id, user_id, device_id, created_ms)."""
    await tx.insert_rows(
        INSERT,
        [
            (number, user_id, device_id, 0, now_ms, None)
            for number, user_id, device_id, now_ms in changes
        ],
    )


async def add_signed(tx: Tx, user_id: str, targets: Sequence[tuple[int, str]], now_ms: int) -> None:
    """Note whose keys a user signed: (stream_id, target_user_id)."""
    await tx.insert_rows(
        INSERT, [(number, user_id, None, 1, now_ms, target) for number, target in targets]
    )


async def changed(tx: Tx, after: int, upto: int) -> list[str]:
    """List the users with a change in `(after, upto]` that others may hear of."""
    return [row[0] for row in await tx.fetch(CHANGED, after, upto)]


async def signed(tx: Tx, after: int, upto: int, user_id: str) -> list[str]:
    """List the users whose keys a user signed in `(after, upto]`."""
    return [row[0] for row in await tx.fetch(SIGNED, after, upto, user_id)]


async def prune(tx: Tx, before_ms: int) -> int:
    """Forget changes older than a time that a later one of the same user supersedes."""
    return await tx.execute(PRUNE, before_ms)


async def rooms_of(tx: Tx, user_id: str) -> list[str]:
    """List the rooms that any user is joined to."""
    return [row[0] for row in await tx.fetch(ROOMS_OF, user_id)]
