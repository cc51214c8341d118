"""Dehydrated devices (MSC3814): at most one per user."""

from hs.storage.database import Tx

PUT = """
INSERT INTO dehydrated_devices (user_id, device_id, device_data) VALUES ($1, $2, $3)
ON CONFLICT (user_id)
DO UPDATE SET device_id = excluded.device_id, device_data = excluded.device_data
"""
GET = "SELECT device_id, device_data FROM dehydrated_devices WHERE user_id = $1"
DELETE = "DELETE FROM dehydrated_devices WHERE user_id = $1"
DELETE_DEVICE = "DELETE FROM dehydrated_devices WHERE user_id = $1 AND device_id = $2"


async def put(tx: Tx, user_id: str, device_id: str, device_data: bytes) -> None:
    """Insert or replace a user's dehydrated device; `device_data` is JSON."""
    await tx.execute(PUT, user_id, device_id, device_data)


async def get(tx: Tx, user_id: str) -> tuple[str, bytes] | None:
    """Return the ID and the data of a user's dehydrated device."""
    row = await tx.fetchrow(GET, user_id)
    return None if row is None else (row[0], bytes(row[1]))


async def delete(tx: Tx, user_id: str) -> None:
    """Delete a user's dehydrated device."""
    await tx.execute(DELETE, user_id)


async def delete_device(tx: Tx, user_id: str, device_id: str) -> None:
    """Delete a user's dehydrated device if it has this ID."""
    await tx.execute(DELETE_DEVICE, user_id, device_id)
