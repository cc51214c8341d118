"""Storage of one-time and fallback keys, within a transaction of the caller.

Keys that are uploaded together with a device's identity keys are stored in the same transaction by
the owner of `device_lists`, other keys by the owner of `to_device`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from hs.core.errors import InvalidParam, NotFound
from hs.core.ids import UserID
from hs.services.devices.key_objects import OneTimeKey
from hs.storage.database import Tx
from hs.storage.devices import one_time_keys
from hs.storage.devices.key_uploads import DeviceKeyState

MAX_STORED_BYTES: Final = 128 * 1024
"""Limit on a device's one-time keys: an upload rewrites all keys of its algorithms.

Its fallback keys have the same limit."""

_ROW_BYTES: Final = 100


def device_not_found() -> NotFound:
    """Return the error for an upload by a device that does not exist (any more)."""
    return NotFound("Device not found")


@attrs.frozen
class KeyUpload:
    """The one-time and fallback keys that a device uploads."""

    user_id: UserID
    device_id: str
    one_time_keys: list[OneTimeKey]
    fallback_keys: list[OneTimeKey]


async def store_keys(tx: Tx, upload: KeyUpload, device: DeviceKeyState) -> dict[str, int] | None:
    """Store the keys that are not stored yet; return the new counts per algorithm.

    Return None if all keys were stored already. Raises: InvalidParam.
    """
    new_keys = _new_keys(upload, device)
    fallbacks = [key for key in upload.fallback_keys if not _is_stored(key, device)]
    _check_size_of_fallbacks(fallbacks, device)
    if not new_keys and not fallbacks:
        return None
    stored = {algorithm: [*keys] for algorithm, keys in device.one_time_keys.items()}
    for key in new_keys:
        stored.setdefault(key.algorithm, []).append(key.shown)
    if new_keys:
        _check_size(stored)
        added = {key.algorithm for key in new_keys}
        if device.spent_algorithms - added:
            await one_time_keys.delete_spent(tx, device.inbox)
        await one_time_keys.put(tx, device.inbox, {name: stored[name] for name in added})
    await one_time_keys.put_fallbacks(
        tx, device.inbox, [(key.algorithm, key.key_id, key.content) for key in fallbacks]
    )
    return {algorithm: len(keys) for algorithm, keys in stored.items()}


def _new_keys(upload: KeyUpload, device: DeviceKeyState) -> list[OneTimeKey]:
    """Return the keys that are not stored yet. Raises: InvalidParam."""
    if not device.one_time_keys:
        return upload.one_time_keys
    stored = device.named_keys()
    new_keys = []
    for key in upload.one_time_keys:
        stored_key = stored.get(key.name)
        if stored_key is None:
            new_keys.append(key)
        elif stored_key != key.shown:
            raise InvalidParam(f"A different one-time key {key.name} is stored already")
    return new_keys


def _check_size(keys: Mapping[str, Sequence[bytes]]) -> None:
    if sum(map(one_time_keys.stored_size, keys.values())) > MAX_STORED_BYTES:
        raise InvalidParam(f"A device can store at most {MAX_STORED_BYTES} bytes of one-time keys")


def _check_size_of_fallbacks(keys: Sequence[OneTimeKey], device: DeviceKeyState) -> None:
    sizes = {algorithm: len(key.content) for algorithm, key in device.fallbacks.items()}
    sizes |= {key.algorithm: len(key.content) for key in keys}
    if keys and sum(sizes.values()) + len(sizes) * _ROW_BYTES > MAX_STORED_BYTES:
        raise InvalidParam(f"A device can store at most {MAX_STORED_BYTES} bytes of fallback keys")


def _is_stored(key: OneTimeKey, device: DeviceKeyState) -> bool:
    # A fallback key that was used and is uploaded again stays used.
    stored = device.fallbacks.get(key.algorithm)
    return stored is not None and (stored.key_id, stored.content) == (key.key_id, key.content)
