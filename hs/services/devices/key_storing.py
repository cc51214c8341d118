"""Storing one-time and fallback keys, as part of a transaction of either owner.

They come alone, or together with the keys of a new device: then all of it is one commit.
"""

from collections import Counter

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.services.devices.key_objects import OneTimeKey
from hs.storage import one_time_keys
from hs.storage.database import Tx
from hs.storage.key_uploads import KnownOfDevice


@attrs.frozen
class KeyUpload:
    """One-time and fallback keys of one device."""

    user_id: UserID
    device_id: str
    one_time_keys: list[OneTimeKey]
    fallback_keys: list[OneTimeKey]

    @property
    def key_ids(self) -> list[str]:
        """Give the IDs of its one-time keys, without their algorithms."""
        return [key.key_id for key in self.one_time_keys]


async def store_keys(tx: Tx, upload: KeyUpload, known: KnownOfDevice) -> dict[str, int] | None:
    """Add the keys that are not known yet; give how many there are then of each algorithm.

    None: there was nothing to add. Raises: InvalidParam.
    """
    user_id, device_id = upload.user_id, upload.device_id
    fresh = [key for key in upload.one_time_keys if not _is_known(key, known)]
    fallbacks = [key for key in upload.fallback_keys if not _is_held(key, known)]
    if not fresh and not fallbacks:
        return None
    await one_time_keys.add(tx, user_id, device_id, [_record(key) for key in fresh])
    await one_time_keys.put_fallbacks(tx, user_id, device_id, [_record(key) for key in fallbacks])
    return dict(Counter(known.counts) + Counter(key.algorithm for key in fresh))


def _record(key: OneTimeKey) -> tuple[str, str, bytes]:
    return key.algorithm, key.key_id, key.content


def _is_known(key: OneTimeKey, known: KnownOfDevice) -> bool:
    content = known.one_time_keys.get((key.algorithm, key.key_id))
    if content is not None and content != key.content:
        raise InvalidParam(f"There is another one-time key {key.algorithm}:{key.key_id} already")
    return content is not None


def _is_held(key: OneTimeKey, known: KnownOfDevice) -> bool:
    # The same key again stays used.
    held = known.fallbacks.get(key.algorithm)
    return held is not None and (held.key_id, held.content) == (key.key_id, key.content)
