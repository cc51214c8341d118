"""Storing one-time and fallback keys, as part of a transaction of either owner.

They come alone, or together with the keys of a new device: then all of it is one commit.
"""

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.services.devices.key_objects import OneTimeKey
from hs.storage import one_time_keys
from hs.storage.database import Tx


@attrs.frozen
class KeyUpload:
    """One-time and fallback keys of one device."""

    user_id: UserID
    device_id: str
    one_time_keys: list[OneTimeKey]
    fallback_keys: list[OneTimeKey]


async def store_keys(tx: Tx, upload: KeyUpload) -> bool:
    """Add the keys that are not here yet; tell whether there were any. Raises: InvalidParam."""
    changed = False
    if upload.one_time_keys:
        changed = await _add_one_time_keys(tx, upload)
    if upload.fallback_keys:
        changed |= await _put_fallbacks(tx, upload)
    return changed


async def _add_one_time_keys(tx: Tx, upload: KeyUpload) -> bool:
    user_id, device_id = upload.user_id, upload.device_id
    key_ids = [key.key_id for key in upload.one_time_keys]
    known = await one_time_keys.known(tx, user_id, device_id, key_ids)
    fresh = [key for key in upload.one_time_keys if not _is_known(key, known)]
    await one_time_keys.add(
        tx, user_id, device_id, [(key.algorithm, key.key_id, key.content) for key in fresh]
    )
    return bool(fresh)


def _is_known(key: OneTimeKey, known: dict[tuple[str, str], bytes]) -> bool:
    content = known.get((key.algorithm, key.key_id))
    if content is not None and content != key.content:
        raise InvalidParam(f"There is another one-time key {key.algorithm}:{key.key_id} already")
    return content is not None


async def _put_fallbacks(tx: Tx, upload: KeyUpload) -> bool:
    held = await one_time_keys.fallbacks(tx, upload.user_id, upload.device_id)
    changed = False
    for key in upload.fallback_keys:
        old = held.get(key.algorithm)
        # The same key again stays used.
        if old is None or (old.key_id, old.content) != (key.key_id, key.content):
            await one_time_keys.put_fallback(
                tx, upload.user_id, upload.device_id, key.algorithm, key.key_id, key.content
            )
            changed = True
    return changed
