"""Transactions of the owner of a user's one-time keys: uploads and claims.

Both write rows of the stream `to_device` in the same transaction. Claiming deletes a key: a claim
runs to its end even if the client disconnects, and concurrent claims of a device's keys are
serialised by the row that holds them.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from hs.core.streams import ToDeviceRow
from hs.repl.writers import StreamIds
from hs.services.devices.inbox_addresses import DeviceAddress
from hs.services.devices.one_time_key_storage import KeyUpload, device_not_found, store_keys
from hs.storage.database import DeferredRows, Tx
from hs.storage.devices import key_uploads, one_time_keys, to_device

Rows = list[tuple[int, ToDeviceRow]]
ClaimableKey = tuple[str, str, str]  # (user_id, device_id, algorithm)
ClaimRequest = Mapping[str, Mapping[str, str]]  # {user_id: {device_id: algorithm}}
ClaimedKeys = dict[str, dict[str, bytes]]  # {user_id: {device_id: JSON object {key name: key}}}
Claim = Callable[..., Coroutine[Any, Any, tuple[tuple[ClaimedKeys, dict[ClaimableKey, int]], Rows]]]
"""A transaction that claims keys; see `claim`."""


async def upload(tx: Tx, ids: StreamIds, upload: KeyUpload) -> tuple[dict[str, int], Rows]:
    """Store keys; return the count per algorithm. Raises: InvalidParam, NotFound."""
    user_id, device_id = upload.user_id, upload.device_id
    device = await key_uploads.load(tx, user_id, device_id)
    if device is None:
        raise device_not_found()
    counts = await store_keys(tx, upload, device)
    if counts is None:
        return device.counts, []
    return counts, await _changed_rows(ids, [(user_id, device_id)])


def unclaimed(request: ClaimRequest, claimed: ClaimedKeys) -> dict[str, dict[str, str]]:
    """Return the part of a request for which no key has been claimed."""
    if sum(map(len, request.values())) == sum(map(len, claimed.values())):
        return {}
    remaining: dict[str, dict[str, str]] = {}
    for user_id, devices in request.items():
        for device_id in devices.keys() - claimed.get(user_id, {}).keys():
            remaining.setdefault(user_id, {})[device_id] = devices[device_id]
    return remaining


async def claim_known(
    tx: Tx, ids: StreamIds, algorithm: str, devices: Mapping[int, DeviceAddress]
) -> tuple[DeferredRows, Rows]:
    """Claim a one-time key of each device, by inbox, in one statement.

    The rows with the keys are available only after the transaction.
    """
    late = await one_time_keys.claim_deferred(tx, devices, algorithm)
    # It is not known yet which devices had a key, so all of them are announced.
    return late, await _changed_rows(ids, devices.values())


async def claim(
    tx: Tx, ids: StreamIds, request: ClaimRequest
) -> tuple[tuple[ClaimedKeys, dict[ClaimableKey, int]], Rows]:
    """Claim a one-time key, or else the fallback key, of each device, by device ID.

    Return the keys, and the inboxes of the devices that had a one-time key.
    """
    return await _claim(tx, ids, request, with_fallbacks=True)


async def claim_one_time(
    tx: Tx, ids: StreamIds, request: ClaimRequest
) -> tuple[tuple[ClaimedKeys, dict[ClaimableKey, int]], Rows]:
    """Claim a one-time key of each device; see `claim`."""
    return await _claim(tx, ids, request, with_fallbacks=False)


async def _claim(
    tx: Tx, ids: StreamIds, request: ClaimRequest, *, with_fallbacks: bool
) -> tuple[tuple[ClaimedKeys, dict[ClaimableKey, int]], Rows]:
    algorithms = {
        (user_id, device_id): algorithm
        for user_id, devices in request.items()
        for device_id, algorithm in devices.items()
    }
    inboxes = await to_device.inboxes_of_devices(tx, list(algorithms))
    devices = {inbox: device for device, inbox in inboxes.items()}
    requested = {inbox: algorithms[device] for inbox, device in devices.items()}
    keys = await one_time_keys.claim_keys(tx, requested) if requested else []
    claimable = {(*devices[inbox], requested[inbox]): inbox for inbox, _ in keys}
    remaining = {
        inbox: requested[inbox] for inbox in requested.keys() - {inbox for inbox, _ in keys}
    }
    if remaining and with_fallbacks:
        keys += await one_time_keys.claim_fallbacks(tx, remaining)
    rows = await _changed_rows(ids, [devices[inbox] for inbox, _ in keys])
    return (by_device(devices, keys), claimable), rows


def by_device(
    devices: Mapping[int, DeviceAddress], keys: Iterable[tuple[int, bytes]]
) -> ClaimedKeys:
    """Group keys, given with their inboxes, by user and device."""
    by_user: ClaimedKeys = {}
    for inbox, key in keys:
        user_id, device_id = devices[inbox]
        by_user.setdefault(user_id, {})[device_id] = key
    return by_user


async def _changed_rows(ids: StreamIds, devices: Iterable[DeviceAddress]) -> Rows:
    changed = tuple(devices)
    return [(await ids.next_id(), ToDeviceRow(changed, keys=True))] if changed else []
