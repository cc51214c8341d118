"""What is known of a device when it uploads keys: all of it by one question."""

from collections.abc import Sequence

import attrs
import orjson

from hs.storage.database import Row, Tx
from hs.storage.one_time_keys import FallbackRecord


@attrs.frozen
class KnownOfDevice:
    """A device and its keys so far.

    `content` is that of its identity keys, canonical JSON. `one_time_keys` are those not given
    out, each an object of the key by its name in JSON; they, their counts and `fallbacks` are by
    algorithm. `last_batch` is the number of the last of their batches there ever was, and
    `has_spent` tells whether nothing is left of one that is there. `room_ids` are those its user
    is joined to.
    """

    content: bytes | None
    is_name_of_cross_signing_key: bool
    one_time_keys: dict[str, list[bytes]]
    last_batch: int
    has_spent: bool
    fallbacks: dict[str, FallbackRecord]
    room_ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Count its one-time keys by algorithm."""
        return {algorithm: len(keys) for algorithm, keys in self.one_time_keys.items()}

    def named_keys(self) -> dict[str, bytes]:
        """Give its one-time keys by their names, `algorithm:id`."""
        return {
            name: key
            for keys in self.one_time_keys.values()
            for key in keys
            for name in orjson.loads(key)
        }


_DEVICE = "WHERE user_id = $1 AND device_id = $2"
KNOWN = f"""
SELECT 'device' AS part, '' AS name, '' AS key_id, CASE WHEN EXISTS (
    SELECT 1 FROM cross_signing_keys c WHERE c.user_id = d.user_id AND c.public_key = d.device_id
) THEN 1 ELSE 0 END AS number, d.last_batch AS more, k.content AS content
FROM devices d LEFT JOIN device_keys k ON k.user_id = d.user_id AND k.device_id = d.device_id
WHERE d.user_id = $1 AND d.device_id = $2
UNION ALL SELECT 'batch', algorithm, '', number, width, substr(keys, taken * width + 1)
FROM key_batches {_DEVICE}
UNION ALL SELECT 'fallback', algorithm, key_id, is_used, 0, content FROM fallback_keys {_DEVICE}
"""
KNOWN_WITH_ROOMS = f"""
{KNOWN}
UNION ALL SELECT 'room', room_id, '', 0, 0, NULL FROM current_state
WHERE state_key = $1 AND membership = 'join'
"""


async def known(tx: Tx, user_id: str, device_id: str) -> KnownOfDevice | None:
    """Give what an upload of one-time keys needs; None: there is no such device."""
    return _sorted_out(await tx.fetch(KNOWN, user_id, device_id))


async def known_with_rooms(tx: Tx, user_id: str, device_id: str) -> KnownOfDevice | None:
    """Give the same with the rooms of the device's user."""
    return _sorted_out(await tx.fetch(KNOWN_WITH_ROOMS, user_id, device_id))


def _sorted_out(rows: Sequence[Row]) -> KnownOfDevice | None:
    device: Row | None = None
    batches: list[tuple[int, str, list[bytes]]] = []
    fallbacks: dict[str, FallbackRecord] = {}
    room_ids: list[str] = []
    for row in rows:
        part, name, key_id, number, more, content = row
        if part == "device":
            device = row
        elif part == "batch":
            batches.append((number, name, _cut(bytes(content), more)))
        elif part == "fallback":
            fallbacks[name] = FallbackRecord(name, key_id, bytes(content), number)
        else:
            room_ids.append(name)
    if device is None:
        return None
    keys: dict[str, list[bytes]] = {}
    for _, algorithm, held in batches:
        if held:
            keys.setdefault(algorithm, []).extend(held)
    return KnownOfDevice(
        content=None if device[5] is None else bytes(device[5]),
        is_name_of_cross_signing_key=device[3] == 1,
        one_time_keys=keys,
        last_batch=device[4],
        has_spent=not all(held for _, _, held in batches),
        fallbacks=fallbacks,
        room_ids=tuple(room_ids),
    )


def _cut(keys: bytes, width: int) -> list[bytes]:
    return [keys[start : start + width] for start in range(0, len(keys), width)]
