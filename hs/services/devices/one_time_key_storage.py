"""Storing one-time and fallback keys, as part of a transaction of either owner.

They come alone, or together with the keys of a new device: then all of it is one commit.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from hs.core.errors import InvalidParam, NotFound
from hs.core.ids import UserID
from hs.services.devices.key_objects import OneTimeKey
from hs.storage.database import Tx
from hs.storage.devices import one_time_keys
from hs.storage.devices.key_uploads import KnownOfDevice

MAX_HELD_BYTES: Final = 128 * 1024
"""Most of a device's one-time keys that wait: every upload writes those of its kind anew."""


def no_such_device() -> NotFound:
    """Make the fault of who uploads keys and has no such device, or no longer."""
    return NotFound("You have no such device")


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
    fresh = _fresh(upload, known)
    fallbacks = [key for key in upload.fallback_keys if not _is_held(key, known)]
    if not fresh and not fallbacks:
        return None
    waiting = {algorithm: [*keys] for algorithm, keys in known.one_time_keys.items()}
    for key in fresh:
        waiting.setdefault(key.algorithm, []).append(key.shown)
    if fresh:
        _check_room(waiting)
        added = {key.algorithm for key in fresh}
        if known.spent - added:
            await one_time_keys.delete_spent(tx, known.inbox)
        await one_time_keys.put(tx, known.inbox, {name: waiting[name] for name in added})
    await one_time_keys.put_fallbacks(
        tx, known.inbox, [(key.algorithm, key.key_id, key.content) for key in fallbacks]
    )
    return {algorithm: len(keys) for algorithm, keys in waiting.items()}


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


def _check_room(waiting: Mapping[str, Sequence[bytes]]) -> None:
    if sum(map(one_time_keys.size_of, waiting.values())) > MAX_HELD_BYTES:
        raise InvalidParam(f"A device can leave at most {MAX_HELD_BYTES} bytes of one-time keys")


def _is_held(key: OneTimeKey, known: KnownOfDevice) -> bool:
    # The same key again stays used.
    held = known.fallbacks.get(key.algorithm)
    return held is not None and (held.key_id, held.content) == (key.key_id, key.content)
