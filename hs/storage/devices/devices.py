"""The devices of users."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.accounts import tokens
from hs.storage.database import Tx
from hs.storage.devices import device_keys, one_time_keys
from hs.storage.dialect import sql
from hs.storage.rows import UpdateRows

INBOXES = "inboxes"
MAX_LISTED: Final = 100


class DeviceRecord(NamedTuple):
    """A device, and when and from where it was last seen."""

    device_id: str
    display_name: str | None
    last_seen_ms: int | None
    last_seen_ip: str | None
    last_seen_user_agent: str | None


class LastSeenUpdate(NamedTuple):
    """An update of when and from where a device was last seen."""

    user_id: str
    device_id: str
    last_seen_ms: int
    last_seen_ip: str
    last_seen_user_agent: str


# Only a new device gets the name: logging in again does not rename. An existing row is updated
# all the same, so that of two concurrent units that create tokens for the device, one conflicts,
# is run again, and sees the tokens of the other.
UPSERT = """
INSERT INTO devices (user_id, device_id, display_name, created_ms, inbox)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id, device_id) DO UPDATE SET inbox = devices.inbox
RETURNING inbox, CASE WHEN
    EXISTS (SELECT 1 FROM device_keys k WHERE k.user_id = $1 AND k.device_id = $2)
THEN 1 ELSE 0 END
"""
PRESENT = sql(
    lambda d: (
        f"SELECT device_id FROM devices WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
    )
)
NAMES = "SELECT device_id FROM devices WHERE user_id = $1"
FORGET_ADDRESSES = """
UPDATE devices SET last_seen_ip = NULL, last_seen_user_agent = NULL
WHERE last_seen_ms < $1 AND last_seen_ip IS NOT NULL
"""
_COLUMNS = "device_id, display_name, last_seen_ms, last_seen_ip, last_seen_user_agent"
ALL = f"SELECT {_COLUMNS} FROM devices WHERE user_id = $1 ORDER BY created_ms, device_id"
ONE = f"SELECT {_COLUMNS} FROM devices WHERE user_id = $1 AND device_id = $2"
RENAME = "UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2"
DELETE = sql(
    lambda d: (
        f"DELETE FROM devices WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')} "
        "RETURNING device_id"
    )
)
_CLOSE = "INSERT INTO closed_inboxes (inbox, user_id) SELECT inbox, user_id FROM devices "
CLOSE = sql(
    lambda d: _CLOSE + f"WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}",
)
CLOSE_ALL = _CLOSE + "WHERE user_id = $1"
DELETE_ALL = "DELETE FROM devices WHERE user_id = $1 RETURNING device_id"
UNUSED = """
SELECT d.user_id, d.device_id FROM devices d
WHERE COALESCE(d.last_seen_ms, d.created_ms) < $1 AND NOT EXISTS (
    SELECT 1 FROM users u WHERE u.user_id = d.user_id AND u.appservice_id IS NOT NULL
)
ORDER BY d.user_id, d.device_id LIMIT $2
"""
# A dehydrated device is never seen, and waits for the user's next login.
LEAST_RECENT = """
SELECT device_id FROM devices d WHERE user_id = $1 AND device_id <> $2 AND NOT EXISTS (
    SELECT 1 FROM dehydrated_devices h WHERE h.user_id = d.user_id AND h.device_id = d.device_id
)
ORDER BY COALESCE(last_seen_ms, created_ms) DESC, device_id LIMIT $3 OFFSET $4
"""
SEEN = UpdateRows(
    "devices",
    key="user_id text, device_id text",
    values="last_seen_ms bigint, last_seen_ip text, last_seen_user_agent text",
)


async def ensure(
    tx: Tx, user_id: str, device_id: str, display_name: str | None, now_ms: int
) -> bool:
    """Create a device unless it exists; return whether it is new.

    Of concurrent units that do this, each sees what the one before it has done. If identity keys
    of a deleted device with the same ID still exist, they are deleted.
    """
    (inbox,) = await tx.next_ids(INBOXES, 1)
    row = await tx.fetchrow(UPSERT, user_id, device_id, display_name, now_ms, inbox)
    assert row is not None
    is_new = bool(row[0] == inbox)
    if is_new and row[1]:
        await device_keys.delete_device_keys(tx, user_id, [device_id])
    return is_new


async def missing_devices(tx: Tx, user_id: str, device_ids: Sequence[str]) -> list[str]:
    """Return the device IDs, of those given, that the user does not have."""
    present = {row[0] for row in await tx.fetch(PRESENT, user_id, list(device_ids))}
    return [device_id for device_id in device_ids if device_id not in present]


async def list_devices(tx: Tx, user_id: str) -> list[DeviceRecord]:
    """List a user's devices, oldest first."""
    return [DeviceRecord(*row) for row in await tx.fetch(ALL, user_id)]


async def find(tx: Tx, user_id: str, device_id: str) -> DeviceRecord | None:
    """Return a device, or None."""
    row = await tx.fetchrow(ONE, user_id, device_id)
    return None if row is None else DeviceRecord(*row)


async def rename(tx: Tx, user_id: str, device_id: str, display_name: str | None) -> bool:
    """Set the display name of a device; return False if there is no such device."""
    return await tx.execute(RENAME, user_id, device_id, display_name) == 1


async def delete(tx: Tx, user_id: str, device_ids: list[str]) -> tuple[list[str], list[str]]:
    """Delete devices and their tokens.

    Returns: (IDs of the deleted devices, hashes of their access tokens).
    """
    await one_time_keys.delete(tx, user_id, device_ids)
    await tx.execute(CLOSE, user_id, device_ids)
    rows = await tx.fetch(DELETE, user_id, device_ids)
    hashes: list[str] = []
    for device_id in device_ids:
        hashes += await tokens.delete_of_device(tx, user_id, device_id)
    return [row[0] for row in rows], hashes


async def delete_all(tx: Tx, user_id: str) -> tuple[list[str], list[str]]:
    """Delete all devices and tokens of a user.

    Returns: (IDs of the deleted devices, hashes of the access tokens).
    """
    device_ids = [row[0] for row in await tx.fetch(NAMES, user_id)]
    await one_time_keys.delete(tx, user_id, device_ids)
    await tx.execute(CLOSE_ALL, user_id)
    rows = await tx.fetch(DELETE_ALL, user_id)
    return [row[0] for row in rows], await tokens.delete_of_user(tx, user_id)


async def list_unused(tx: Tx, before_ms: int, limit: int) -> list[tuple[str, str]]:
    """List (user_id, device_id) of devices not seen since a time (ms); skips appservice users."""
    return [(row[0], row[1]) for row in await tx.fetch(UNUSED, before_ms, limit)]


async def list_least_recent(tx: Tx, user_id: str, current: str, kept: int) -> list[str]:
    """List devices of a user beyond the `kept` most recently used ones, `current` among these."""
    rows = await tx.fetch(LEAST_RECENT, user_id, current, MAX_LISTED, kept - 1)
    return [row[0] for row in rows]


async def clear_addresses(tx: Tx, before_ms: int) -> int:
    """Delete IP addresses and user agents of devices last seen before a time (ms).

    Returns: the number of devices changed.
    """
    return await tx.execute(FORGET_ADDRESSES, before_ms)


async def update_last_seen(tx: Tx, sightings: Sequence[LastSeenUpdate]) -> None:
    """Update when and from where devices were last used; each device at most once."""
    await tx.update_rows(SEEN, sightings)
