"""Storing one-time and fallback keys, as part of a transaction of either owner.

They come alone, or together with the keys of a new device: then all of it is one commit.
"""

from collections import Counter
from typing import Final

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.services.devices.key_objects import OneTimeKey
from hs.storage import one_time_keys
from hs.storage.database import Tx
from hs.storage.key_uploads import KnownOfDevice

MAX_HELD_BYTES: Final = 1 << 20
"""Most of a device's one-time keys that wait, as every upload reads them."""


@attrs.frozen
class KeyUpload:
    """One-time and fallback keys of one device."""

    user_id: UserID
    device_id: str
    one_time_keys: list[OneTimeKey]
    fallback_keys: list[OneTimeKey]


async def store_keys(tx: Tx, upload: KeyUpload, known: KnownOfDevice) -> dict[str, int] | None:
    """Add the keys that are not known yet; give how many there are then of each algorithm.

    None: there was nothing to add. Raises: InvalidParam.
    """
    user_id, device_id = upload.user_id, upload.device_id
    fresh = _fresh(upload, known)
    fallbacks = [key for key in upload.fallback_keys if not _is_held(key, known)]
    if not fresh and not fallbacks:
        return None
    if fresh:
        _check_room(fresh, known)
        if known.has_spent:
            await one_time_keys.delete_spent(tx, user_id, device_id)
    added = [(key.algorithm, key.shown) for key in fresh]
    await one_time_keys.add(tx, user_id, device_id, known.last_batch, added)
    await one_time_keys.put_fallbacks(
        tx, user_id, device_id, [(key.algorithm, key.key_id, key.content) for key in fallbacks]
    )
    return dict(Counter(known.counts) + Counter(key.algorithm for key in fresh))


def _fresh(upload: KeyUpload, known: KnownOfDevice) -> list[OneTimeKey]:
    """Give the keys that are not here yet. Raises: InvalidParam."""
    if not known.one_time_keys:
        return upload.one_time_keys
    held = known.named_keys()
    fresh = []
    for key in upload.one_time_keys:
        shown = held.get(key.name)
        if shown is None:
            fresh.append(key)
        elif shown != key.shown:
            raise InvalidParam(f"There is another one-time key {key.name} already")
    return fresh


def _check_room(fresh: list[OneTimeKey], known: KnownOfDevice) -> None:
    held = sum(len(key) for keys in known.one_time_keys.values() for key in keys)
    if held + sum(len(key.shown) for key in fresh) > MAX_HELD_BYTES:
        raise InvalidParam(f"A device can leave at most {MAX_HELD_BYTES} bytes of one-time keys")


def _is_held(key: OneTimeKey, known: KnownOfDevice) -> bool:
    # The same key again stays used.
    held = known.fallbacks.get(key.algorithm)
    return held is not None and (held.key_id, held.content) == (key.key_id, key.content)
