"""One-time keys as their owner changes them: added, and given out.

Both are told of as rows of the stream `to_device`, in the same commit.
"""

from collections.abc import Iterable, Mapping

from hs.repl.rows import ToDeviceRow
from hs.repl.writers import StreamIds
from hs.services.devices.inbox_addresses import Device
from hs.services.devices.one_time_key_storage import KeyUpload, no_such_device, store_keys
from hs.storage.database import LateRows, Tx
from hs.storage.devices import key_uploads, one_time_keys, to_device

Rows = list[tuple[int, ToDeviceRow]]
Wish = tuple[str, str, str]  # (user, device, algorithm)
Wishes = Mapping[str, Mapping[str, str]]  # algorithms by user and device
Keys = dict[str, dict[str, bytes]]  # objects in JSON, of the key by its name, by user and device


async def upload(tx: Tx, ids: StreamIds, upload: KeyUpload) -> tuple[dict[str, int], Rows]:
    """Add keys; give how many wait for each algorithm. Raises: InvalidParam, NotFound."""
    user_id, device_id = upload.user_id, upload.device_id
    known = await key_uploads.known(tx, user_id, device_id)
    if known is None:
        raise no_such_device()
    counts = await store_keys(tx, upload, known)
    if counts is None:
        return known.counts, []
    return counts, await _changed(ids, [(user_id, device_id)])


def left_of(wishes: Wishes, given: Keys) -> Wishes:
    """Give the wishes that are not fulfilled."""
    if sum(map(len, wishes.values())) == sum(map(len, given.values())):
        return {}
    left: dict[str, dict[str, str]] = {}
    for user_id, devices in wishes.items():
        for device_id in devices.keys() - given.get(user_id, {}).keys():
            left.setdefault(user_id, {})[device_id] = devices[device_id]
    return left


async def claim_known(
    tx: Tx, ids: StreamIds, algorithm: str, devices: Mapping[int, Device]
) -> tuple[LateRows, Rows]:
    """Give out one key of each device, by one statement; as a rule they all have one."""
    late = await one_time_keys.claim(tx, devices, algorithm)
    # Which of them had a key is known when all is done.
    return late, await _changed(ids, devices.values())


async def claim(
    tx: Tx, ids: StreamIds, wishes: Wishes
) -> tuple[tuple[Keys, dict[Wish, int]], Rows]:
    """Look for the devices by name, give out a key of each, or the one to fall back on.

    Gives the inboxes of those that had a one-time key, too.
    """
    algorithms = {
        (user_id, device_id): algorithm
        for user_id, devices in wishes.items()
        for device_id, algorithm in devices.items()
    }
    inboxes = await to_device.named(tx, list(algorithms))
    devices = {inbox: device for device, inbox in inboxes.items()}
    wanted = {inbox: algorithms[device] for inbox, device in devices.items()}
    keys = await one_time_keys.claim_any(tx, wanted) if wanted else []
    givers = {(*devices[inbox], wanted[inbox]): inbox for inbox, _ in keys}
    left = {inbox: wanted[inbox] for inbox in wanted.keys() - {inbox for inbox, _ in keys}}
    if left:
        keys += await one_time_keys.use_fallbacks(tx, left)
    rows = await _changed(ids, [devices[inbox] for inbox, _ in keys])
    return (by_device(devices, keys), givers), rows


def by_device(devices: Mapping[int, Device], keys: Iterable[tuple[int, bytes]]) -> Keys:
    """Sort keys that were found by inboxes."""
    given: Keys = {}
    for inbox, key in keys:
        user_id, device_id = devices[inbox]
        given.setdefault(user_id, {})[device_id] = key
    return given


async def _changed(ids: StreamIds, touched: Iterable[Device]) -> Rows:
    changed = tuple(touched)
    return [(await ids.one(), ToDeviceRow(changed, keys=True))] if changed else []
