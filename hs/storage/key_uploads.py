"""What is known of a device when it uploads keys: all of it by one question."""

from collections.abc import Sequence

import attrs

from hs.storage.database import Row, Tx
from hs.storage.dialect import Dialect, sql
from hs.storage.one_time_keys import FallbackRecord


@attrs.frozen
class KnownOfDevice:
    """A device, its keys so far, and those one-time keys of an upload that are here already.

    Contents are canonical JSON. `one_time_keys` is by algorithm and key ID, `fallbacks` and the
    counts of all its one-time keys by algorithm. `room_ids` are those its user is joined to.
    """

    content: bytes | None
    is_name_of_cross_signing_key: bool
    one_time_keys: dict[tuple[str, str], bytes]
    counts: dict[str, int]
    fallbacks: dict[str, FallbackRecord]
    room_ids: tuple[str, ...]


def _known(d: Dialect) -> str:
    device = "WHERE user_id = $1 AND device_id = $2"
    return f"""
SELECT 'device' AS part, '' AS name, '' AS key_id, CASE WHEN EXISTS (
    SELECT 1 FROM cross_signing_keys c WHERE c.user_id = d.user_id AND c.public_key = d.device_id
) THEN 1 ELSE 0 END AS number, k.content AS content
FROM devices d LEFT JOIN device_keys k ON k.user_id = d.user_id AND k.device_id = d.device_id
WHERE d.user_id = $1 AND d.device_id = $2
UNION ALL SELECT 'key', algorithm, key_id, 0, content
FROM one_time_keys {device} AND {d.any_of("key_id", 3, "text")}
UNION ALL SELECT 'count', algorithm, '', count(*), NULL
FROM one_time_keys {device} GROUP BY algorithm
UNION ALL SELECT 'fallback', algorithm, key_id, is_used, content FROM fallback_keys {device}
"""


KNOWN = sql(_known)
KNOWN_WITH_ROOMS = sql(
    lambda d: (
        f"{_known(d)} UNION ALL SELECT 'room', room_id, '', 0, NULL "
        "FROM current_state WHERE state_key = $1 AND membership = 'join'"
    )
)


async def known(
    tx: Tx, user_id: str, device_id: str, key_ids: Sequence[str]
) -> KnownOfDevice | None:
    """Give what an upload of these one-time keys needs; None: there is no such device."""
    return _sorted_out(await tx.fetch(KNOWN, user_id, device_id, list(key_ids)))


async def known_with_rooms(
    tx: Tx, user_id: str, device_id: str, key_ids: Sequence[str]
) -> KnownOfDevice | None:
    """Give the same with the rooms of the device's user."""
    return _sorted_out(await tx.fetch(KNOWN_WITH_ROOMS, user_id, device_id, list(key_ids)))


def _sorted_out(rows: Sequence[Row]) -> KnownOfDevice | None:
    device: Row | None = None
    keys: dict[tuple[str, str], bytes] = {}
    counts: dict[str, int] = {}
    fallbacks: dict[str, FallbackRecord] = {}
    room_ids: list[str] = []
    for row in rows:
        part, name, key_id, number, content = row
        if part == "device":
            device = row
        elif part == "key":
            keys[name, key_id] = bytes(content)
        elif part == "count":
            counts[name] = number
        elif part == "fallback":
            fallbacks[name] = FallbackRecord(name, key_id, bytes(content), number)
        else:
            room_ids.append(name)
    if device is None:
        return None
    content = None if device[4] is None else bytes(device[4])
    return KnownOfDevice(content, device[3] == 1, keys, counts, fallbacks, tuple(room_ids))
