"""Changes of users' device lists and cross-signing keys, for `/keys/changes` and sync."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.rows import InsertRows

INSERT = InsertRows(
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
LAST_CHANGE = """
SELECT max(stream_id) FROM device_list_changes WHERE user_id = $1 AND is_private = 0
"""
# Of old changes, only the latest of each user is needed, and the latest signing of each target.
PRUNE = """
DELETE FROM device_list_changes WHERE created_ms < $1 AND EXISTS (
SELECT 1 FROM device_list_changes later WHERE later.user_id = device_list_changes.user_id
AND later.stream_id > device_list_changes.stream_id
AND later.is_private = device_list_changes.is_private
AND COALESCE(later.target_user_id, '') = COALESCE(device_list_changes.target_user_id, ''))
"""
ROOMS_OF = "SELECT room_id FROM current_state WHERE state_key = $1 AND membership = 'join'"


async def add_changes(tx: Tx, changes: Sequence[tuple[int, str, str | None, int]]) -> None:
    """Add changes visible to other users: (stream_id, user_id, device_id, created_ms)."""
    await tx.insert_rows(
        INSERT,
        [
            (stream_id, user_id, device_id, 0, now_ms, None)
            for stream_id, user_id, device_id, now_ms in changes
        ],
    )


async def add_signing_changes(
    tx: Tx, user_id: str, targets: Sequence[tuple[int, str]], now_ms: int
) -> None:
    """Add changes that only the signing user sees: (stream_id, target_user_id)."""
    await tx.insert_rows(
        INSERT, [(stream_id, user_id, None, 1, now_ms, target) for stream_id, target in targets]
    )


async def changed_users(tx: Tx, after: int, upto: int) -> list[str]:
    """List the users with a public change in `(after, upto]`."""
    return [row[0] for row in await tx.fetch(CHANGED, after, upto)]


async def signed_users(tx: Tx, after: int, upto: int, user_id: str) -> list[str]:
    """List the users whose keys a user has signed in `(after, upto]`."""
    return [row[0] for row in await tx.fetch(SIGNED, after, upto, user_id)]


async def last_change(tx: Tx, user_id: str) -> int:
    """Return the position of the latest public change of a user; 0 if there was none."""
    return await tx.fetchval(LAST_CHANGE, user_id) or 0


async def prune(tx: Tx, before_ms: int) -> int:
    """Delete changes before a time (ms) that a later change of the same user supersedes."""
    return await tx.execute(PRUNE, before_ms)


async def joined_rooms(tx: Tx, user_id: str) -> list[str]:
    """List the rooms that a user, local or remote, is joined to."""
    return [row[0] for row in await tx.fetch(ROOMS_OF, user_id)]
