"""Identity keys of devices, cross-signing keys of users, and the signatures on them."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows


class DeviceKeysRecord(NamedTuple):
    """A device's identity keys (canonical JSON), and the display name its user gave it."""

    user_id: str
    device_id: str
    content: bytes
    display_name: str | None


class CrossSigningRecord(NamedTuple):
    """A cross-signing key of a user; `content` is canonical JSON."""

    user_id: str
    usage: str
    public_key: str
    content: bytes


class SignatureRecord(NamedTuple):
    """A signature on a device's keys or on a cross-signing key."""

    target_user_id: str
    target_id: str
    signer_user_id: str
    key_id: str
    signature: str


PUT_DEVICE = InsertRows(
    "device_keys",
    "user_id text, device_id text, content bytea",
    conflict="ON CONFLICT (user_id, device_id) DO UPDATE SET content = excluded.content",
)
# The join hides the keys of a device that was logged out, if they are not deleted yet.
DEVICES_OF = sql(
    lambda d: (
        "SELECT k.user_id, k.device_id, k.content, d.display_name FROM device_keys k "
        "JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id "
        f"WHERE {d.any_of('k.user_id', 1, 'text')}"
    )
)
DELETE_DEVICES = sql(
    lambda d: f"DELETE FROM device_keys WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
)
ORPHANS = """
SELECT k.user_id, k.device_id FROM device_keys k
LEFT JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
WHERE d.user_id IS NULL LIMIT $1
"""
IS_CROSS_SIGNING = "SELECT 1 FROM cross_signing_keys WHERE user_id = $1 AND public_key = $2"
PUT_CROSS_SIGNING = """
INSERT INTO cross_signing_keys (user_id, usage, public_key, content) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, usage)
DO UPDATE SET public_key = excluded.public_key, content = excluded.content
"""
CROSS_SIGNING_OF = sql(
    lambda d: (
        "SELECT user_id, usage, public_key, content FROM cross_signing_keys "
        f"WHERE {d.any_of('user_id', 1, 'text')}"
    )
)
SIGNATURES_ON = sql(
    lambda d: (
        "SELECT target_user_id, target_id, signer_user_id, key_id, signature "
        f"FROM key_signatures WHERE {d.any_of('target_user_id', 1, 'text')}"
    )
)
SIGNATURES_BY = sql(
    lambda d: (
        "SELECT target_user_id, target_id, signer_user_id, key_id, signature FROM key_signatures "
        f"WHERE {d.any_of('target_user_id', 1, 'text')} AND signer_user_id = $2"
    )
)
PUT_SIGNATURES = InsertRows(
    "key_signatures",
    "target_user_id text, target_id text, signer_user_id text, key_id text, signature text",
    conflict="ON CONFLICT (target_user_id, target_id, signer_user_id, key_id) "
    "DO UPDATE SET signature = excluded.signature",
)
DELETE_SIGNATURES_ON = sql(
    lambda d: (
        "DELETE FROM key_signatures "
        f"WHERE target_user_id = $1 AND {d.any_of('target_id', 2, 'text')}"
    )
)
DELETE_SIGNATURES_BY = sql(
    lambda d: (
        f"DELETE FROM key_signatures WHERE signer_user_id = $1 AND {d.any_of('key_id', 2, 'text')}"
    )
)


async def put_device_keys(tx: Tx, user_id: str, device_id: str, content: bytes) -> None:
    """Insert or replace the identity keys of a device."""
    await tx.insert_rows(PUT_DEVICE, [(user_id, device_id, content)])


async def list_device_keys(tx: Tx, user_ids: Sequence[str]) -> list[DeviceKeysRecord]:
    """List the identity keys of all devices of users."""
    rows = await tx.fetch(DEVICES_OF, list(user_ids))
    return [DeviceKeysRecord(row[0], row[1], bytes(row[2]), row[3]) for row in rows]


async def delete_device_keys(tx: Tx, user_id: str, device_ids: Sequence[str]) -> None:
    """Delete the identity keys of devices, and the signatures on them and by them."""
    await tx.execute(DELETE_DEVICES, user_id, list(device_ids))
    await tx.execute(DELETE_SIGNATURES_ON, user_id, list(device_ids))
    await tx.execute(
        DELETE_SIGNATURES_BY, user_id, [f"ed25519:{device_id}" for device_id in device_ids]
    )


async def list_orphans(tx: Tx, limit: int) -> list[tuple[str, str]]:
    """List (user_id, device_id) of identity keys whose device does not exist."""
    return [(row[0], row[1]) for row in await tx.fetch(ORPHANS, limit)]


async def is_cross_signing_key(tx: Tx, user_id: str, public_key: str) -> bool:
    """Return whether a user has a cross-signing key with this public key."""
    return await tx.fetchval(IS_CROSS_SIGNING, user_id, public_key) is not None


async def put_cross_signing_key(tx: Tx, key: CrossSigningRecord) -> None:
    """Insert or replace a cross-signing key of a user."""
    await tx.execute(PUT_CROSS_SIGNING, *key)


async def list_cross_signing_keys(tx: Tx, user_ids: Sequence[str]) -> list[CrossSigningRecord]:
    """List the cross-signing keys of users."""
    rows = await tx.fetch(CROSS_SIGNING_OF, list(user_ids))
    return [CrossSigningRecord(row[0], row[1], row[2], bytes(row[3])) for row in rows]


async def delete_signatures_of_keys(tx: Tx, user_id: str, public_keys: Sequence[str]) -> None:
    """Delete the signatures on and by cross-signing keys that a user has replaced."""
    await tx.execute(DELETE_SIGNATURES_ON, user_id, list(public_keys))
    await tx.execute(
        DELETE_SIGNATURES_BY, user_id, [f"ed25519:{public_key}" for public_key in public_keys]
    )


async def put_signatures(tx: Tx, signatures: Sequence[SignatureRecord]) -> None:
    """Insert or replace signatures; each pair of key and target at most once."""
    await tx.insert_rows(PUT_SIGNATURES, signatures)


async def list_signatures_by(tx: Tx, signer: str, user_ids: Sequence[str]) -> list[SignatureRecord]:
    """List the signatures of a user on the keys of users."""
    rows = await tx.fetch(SIGNATURES_BY, list(user_ids), signer)
    return [SignatureRecord(*row) for row in rows]


async def list_signatures(tx: Tx, user_ids: Sequence[str]) -> list[SignatureRecord]:
    """List all signatures on the keys of users, by whichever user."""
    return [SignatureRecord(*row) for row in await tx.fetch(SIGNATURES_ON, list(user_ids))]
