"""The keys of a device, loaded by one statement when the device uploads keys."""

from collections.abc import Sequence

import attrs
import orjson

from hs.storage.database import Row, Tx
from hs.storage.devices.one_time_keys import FallbackRecord


@attrs.frozen
class DeviceKeyState:
    """A device's inbox and its keys.

    `content` is its identity keys in canonical JSON, if uploaded. `one_time_keys` maps algorithms
    to unclaimed keys, each a JSON object `{"algorithm:key_id": …}`. `spent` lists the algorithms
    whose keys are all claimed.
    """

    inbox: int
    content: bytes | None
    device_id_is_cross_signing_key: bool
    one_time_keys: dict[str, list[bytes]]
    spent_algorithms: frozenset[str]
    fallbacks: dict[str, FallbackRecord]

    @property
    def counts(self) -> dict[str, int]:
        """Number of unclaimed one-time keys by algorithm."""
        return {algorithm: len(keys) for algorithm, keys in self.one_time_keys.items()}

    def named_keys(self) -> dict[str, bytes]:
        """Return the one-time keys by name (`algorithm:key_id`)."""
        return {
            name: key
            for keys in self.one_time_keys.values()
            for key in keys
            for name in orjson.loads(key)
        }


_OF_DEVICE = "JOIN devices d ON d.inbox = o.inbox WHERE d.user_id = $1 AND d.device_id = $2"
KNOWN = f"""
SELECT 'device' AS part, '' AS name, '' AS key_id, CASE WHEN EXISTS (
    SELECT 1 FROM cross_signing_keys c WHERE c.user_id = d.user_id AND c.public_key = d.device_id
) THEN 1 ELSE 0 END AS number, d.inbox AS more, k.content AS content
FROM devices d LEFT JOIN device_keys k ON k.user_id = d.user_id AND k.device_id = d.device_id
WHERE d.user_id = $1 AND d.device_id = $2
UNION ALL SELECT 'keys', o.algorithm, '', 0, o.width, substr(o.keys, o.taken * o.width + 1)
FROM one_time_keys o {_OF_DEVICE}
UNION ALL SELECT 'fallback', o.algorithm, o.key_id, o.is_used, 0, o.content
FROM fallback_keys o {_OF_DEVICE}
"""


async def load(tx: Tx, user_id: str, device_id: str) -> DeviceKeyState | None:
    """Load the keys of a device; None if the device does not exist."""
    return _from_rows(await tx.fetch(KNOWN, user_id, device_id))


def _from_rows(rows: Sequence[Row]) -> DeviceKeyState | None:
    device: Row | None = None
    keys: dict[str, list[bytes]] = {}
    fallbacks: dict[str, FallbackRecord] = {}
    for row in rows:
        part, name, key_id, number, inbox_or_width, content = row
        if part == "device":
            device = row
        elif part == "keys":
            keys[name] = _split(bytes(content), inbox_or_width)
        else:
            fallbacks[name] = FallbackRecord(name, key_id, bytes(content), number)
    if device is None:
        return None
    return DeviceKeyState(
        inbox=device[4],
        content=None if device[5] is None else bytes(device[5]),
        device_id_is_cross_signing_key=device[3] == 1,
        one_time_keys={name: unclaimed for name, unclaimed in keys.items() if unclaimed},
        spent_algorithms=frozenset([name for name, unclaimed in keys.items() if not unclaimed]),
        fallbacks=fallbacks,
    )


def _split(keys: bytes, width: int) -> list[bytes]:
    return [keys[start : start + width].rstrip() for start in range(0, len(keys), width)]
