"""The writer of device lists: stores identity and cross-signing keys, and announces changes.

Rules:

- Every change of keys is committed together with its row of the stream `device_lists`, so that a
  process that reads up to a position sees all changes up to it.
- Devices are created, renamed and deleted by sessions in their own transactions; those announce
  them afterwards (`announce`, `forget`). The hourly cleanup repeats announcements of deletions that
  were lost.
- Device IDs and cross-signing public keys of a user share a namespace. Uploads of either kind check
  the other kind in the transaction, so that concurrent uploads cannot both succeed: those of a user
  are all transactions of one writer, or (new devices) check as well and conflict.
- Replacing cross-signing keys requires `proved`; whether keys exist is checked in the transaction,
  because another upload may have stored some since the request was checked.
- Equal keys and signatures are not written again, and not announced.
- A change that only the user's own devices can see (user-signing key, signatures on keys of other
  users) is announced as private.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import UserID
from hs.core.streams import DeviceListRow
from hs.lib.clock import Clock
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices.key_objects import USER_SIGNING
from hs.services.devices.one_time_key_storage import KeyUpload, device_not_found, store_keys
from hs.storage.database import ForeignKeyViolation, Tx
from hs.storage.devices import dehydrated_devices, device_keys, device_lists, devices, key_uploads
from hs.storage.devices.device_keys import CrossSigningRecord, SignatureRecord

Rows = list[tuple[int, DeviceListRow]]


@attrs.frozen
class SigningKeyUpload:
    """A cross-signing key to be stored; `content` is canonical JSON."""

    usage: str
    public_key: str
    content: bytes


@attrs.frozen
class NewSignature:
    """A signature on a device's keys or a cross-signing key, to be stored."""

    target_user_id: UserID
    target_id: str
    key_id: str
    signature: str


class DeviceListWriter(Protocol):
    """The writer of device lists: local, or the proxy of another process."""

    @rpc
    async def put_device_keys(
        self, user_id: UserID, content: bytes, other_keys: KeyUpload
    ) -> dict[str, int] | None:
        """Store a device's identity keys and its one-time and fallback keys, atomically.

        Return the count of one-time keys per algorithm; None if the identity keys are unchanged,
        in which case nothing is stored. Raises: NotFound, Forbidden, InvalidParam.
        """
        ...

    @rpc
    async def put_cross_signing(
        self, user_id: UserID, keys: list[SigningKeyUpload], proved: bool
    ) -> None:
        """Store cross-signing keys; replacing or adding keys requires `proved` authentication.

        Raises: Forbidden.
        """
        ...

    @rpc
    async def put_signatures(self, user_id: UserID, signatures: list[NewSignature]) -> None:
        """Store a user's signatures, checked by the caller; known ones are not a change."""
        ...

    @rpc
    async def announce(self, user_id: UserID, device_ids: list[str]) -> None:
        """Announce new or changed devices, or, without devices, a change of the user's keys."""
        ...

    @rpc
    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the keys of deleted devices, and announce the deletion."""
        ...

    @rpc
    async def dehydrate(
        self, user_id: UserID, device_id: str, name: str | None, device_data: bytes, keys: bytes
    ) -> str | None:
        """Store a user's dehydrated device; return the ID of the device it replaces.

        Raises: InvalidParam.
        """
        ...

    @rpc
    async def drop_dehydrated(self, user_id: UserID) -> str | None:
        """Delete a user's dehydrated device; return its ID."""
        ...


@attrs.frozen(eq=False)
class LocalDeviceListWriter:
    """The writer in a process that owns the stream, or a share of the users."""

    _stream: TableWriter[DeviceListRow]
    _clock: Clock

    async def put_device_keys(
        self, user_id: UserID, content: bytes, other_keys: KeyUpload
    ) -> dict[str, int] | None:
        """Store a device's identity keys and its one-time and fallback keys."""
        now_ms = self._clock.now_ms()
        try:
            return await self._stream.write(_put_device_keys, content, other_keys, now_ms)
        except ForeignKeyViolation as error:
            raise device_not_found() from error

    async def put_cross_signing(
        self, user_id: UserID, keys: list[SigningKeyUpload], proved: bool
    ) -> None:
        """Store cross-signing keys; equal keys are not a change."""
        now_ms = self._clock.now_ms()
        await self._stream.write(_put_cross_signing, user_id, keys, proved, now_ms)

    async def put_signatures(self, user_id: UserID, signatures: list[NewSignature]) -> None:
        """Store signatures."""
        await self._stream.write(_put_signatures, user_id, signatures, self._clock.now_ms())

    async def announce(self, user_id: UserID, device_ids: list[str]) -> None:
        """Announce changes."""
        await self._stream.write(_announce, user_id, device_ids, self._clock.now_ms())

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the keys of devices, and announce the deletion."""
        await self._stream.write(_forget, user_id, device_ids, self._clock.now_ms())

    async def dehydrate(
        self, user_id: UserID, device_id: str, name: str | None, device_data: bytes, keys: bytes
    ) -> str | None:
        """Store a user's dehydrated device."""
        device = _NewDehydratedDevice(user_id, device_id, name, device_data, keys)
        return await self._stream.write(_dehydrate, device, self._clock.now_ms())

    async def drop_dehydrated(self, user_id: UserID) -> str | None:
        """Delete a user's dehydrated device."""
        return await self._stream.write(_drop_dehydrated, user_id, self._clock.now_ms())


@attrs.frozen
class _NewDehydratedDevice:
    user_id: UserID
    device_id: str
    name: str | None
    device_data: bytes
    keys: bytes


async def _put_device_keys(
    tx: Tx, ids: StreamIds, content: bytes, other_keys: KeyUpload, now_ms: int
) -> tuple[dict[str, int] | None, Rows]:
    user_id, device_id = other_keys.user_id, other_keys.device_id
    device = await key_uploads.load(tx, user_id, device_id)
    if device is None:
        raise device_not_found()
    if device.content == content:
        return None, []
    # Devices and cross-signing keys share a namespace.
    if device.device_id_is_cross_signing_key:
        raise Forbidden("device_id must not equal a cross-signing key ID")
    await device_keys.put_device_keys(tx, user_id, device_id, content)
    counts = await store_keys(tx, other_keys, device) or device.counts
    return counts, await change_rows(tx, ids, user_id, [device_id], now_ms)


async def _put_cross_signing(
    tx: Tx,
    ids: StreamIds,
    user_id: str,
    keys: list[SigningKeyUpload],
    proved: bool,
    now_ms: int,
) -> tuple[None, Rows]:
    stored = {key.usage: key for key in await device_keys.list_cross_signing_keys(tx, [user_id])}
    new_keys = [
        key
        for key in keys
        if key.usage not in stored or stored[key.usage].public_key != key.public_key
    ]
    if not new_keys:
        return None, []
    if stored and not proved:
        raise Forbidden("Other cross-signing keys were uploaded concurrently")
    for key in new_keys:
        if await devices.find(tx, user_id, key.public_key) is not None:
            raise Forbidden("The public key must not equal the ID of one of your devices")
        record = CrossSigningRecord(user_id, key.usage, key.public_key, key.content)
        await device_keys.put_cross_signing_key(tx, record)
    replaced = [stored[key.usage].public_key for key in new_keys if key.usage in stored]
    if replaced:
        await device_keys.delete_signatures_of_keys(tx, user_id, replaced)
    if all(key.usage == USER_SIGNING for key in new_keys):
        # Only the user can see this key, so other users must not query for it.
        return None, await _private_rows(tx, ids, user_id, [UserID(user_id)], now_ms)
    return None, await change_rows(tx, ids, user_id, [None], now_ms)


async def _put_signatures(
    tx: Tx, ids: StreamIds, user_id: str, signatures: list[NewSignature], now_ms: int
) -> tuple[None, Rows]:
    records = [
        SignatureRecord(
            signature.target_user_id,
            signature.target_id,
            user_id,
            signature.key_id,
            signature.signature,
        )
        for signature in signatures
    ]
    target_ids = sorted({record.target_user_id for record in records})
    stored = set(await device_keys.list_signatures(tx, target_ids))
    new_records = [record for record in dict.fromkeys(records) if record not in stored]
    if not new_records:
        return None, []
    targets = {UserID(record.target_user_id) for record in new_records}
    own = sorted({each.target_id for each in new_records if each.target_user_id == user_id})
    keys = await devices.missing_devices(tx, user_id, own) if own else []
    await device_keys.put_signatures(tx, new_records)
    rows: Rows = []
    if own:
        # Other servers are sent the keys of each device that was signed.
        signed = [device_id for device_id in own if device_id not in keys]
        rows += await change_rows(tx, ids, user_id, [*signed, *([None] if keys else [])], now_ms)
    other_users = sorted(targets - {UserID(user_id)})
    if other_users:
        rows += await _private_rows(tx, ids, user_id, other_users, now_ms)
    return None, rows


async def _announce(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str], now_ms: int
) -> tuple[None, Rows]:
    return None, await change_rows(tx, ids, user_id, device_ids or [None], now_ms)


async def _forget(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str], now_ms: int
) -> tuple[None, Rows]:
    # A device that exists has been created again since its deletion.
    deleted = await devices.missing_devices(tx, user_id, device_ids)
    await device_keys.delete_device_keys(tx, user_id, deleted)
    for device_id in deleted:
        await dehydrated_devices.delete_device(tx, user_id, device_id)
    return None, await change_rows(tx, ids, user_id, device_ids, now_ms)


async def _dehydrate(
    tx: Tx, ids: StreamIds, device: _NewDehydratedDevice, now_ms: int
) -> tuple[str | None, Rows]:
    user_id, device_id = device.user_id, device.device_id
    old_device = await dehydrated_devices.get(tx, user_id)
    old_id = None if old_device is None else old_device[0]
    if old_id != device_id and await devices.find(tx, user_id, device_id) is not None:
        raise InvalidParam("device_id must not be that of another device of yours")
    changed: list[str | None] = [device_id]
    if old_id is not None:
        await devices.delete(tx, user_id, [old_id])
        await device_keys.delete_device_keys(tx, user_id, [old_id])
        if old_id != device_id:
            changed.append(old_id)
    await devices.ensure(tx, user_id, device_id, device.name, now_ms)
    await device_keys.put_device_keys(tx, user_id, device_id, device.keys)
    await dehydrated_devices.put(tx, user_id, device_id, device.device_data)
    return old_id, await change_rows(tx, ids, user_id, changed, now_ms)


async def _drop_dehydrated(
    tx: Tx, ids: StreamIds, user_id: str, now_ms: int
) -> tuple[str | None, Rows]:
    device = await dehydrated_devices.get(tx, user_id)
    if device is None:
        return None, []
    device_id = device[0]
    await dehydrated_devices.delete(tx, user_id)
    await devices.delete(tx, user_id, [device_id])
    await device_keys.delete_device_keys(tx, user_id, [device_id])
    return device_id, await change_rows(tx, ids, user_id, [device_id], now_ms)


async def _private_rows(
    tx: Tx, ids: StreamIds, user_id: str, targets: Sequence[UserID], now_ms: int
) -> Rows:
    """Write rows that tell only the user's devices that the keys of `targets` have changed."""
    numbered = list(zip(await ids.next_ids(len(targets)), targets, strict=True))
    await device_lists.add_signing_changes(tx, user_id, numbered, now_ms)
    return [(number, DeviceListRow(user_id, None, True, (target,))) for number, target in numbered]


async def change_rows(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: Sequence[str | None], now_ms: int
) -> Rows:
    """Write rows that announce changes of a user's devices, or (None) of the user's keys."""
    numbers = await ids.next_ids(len(device_ids))
    changes = list(zip(numbers, device_ids, strict=True))
    await device_lists.add_changes(
        tx, [(number, user_id, device_id, now_ms) for number, device_id in changes]
    )
    return [(number, DeviceListRow(user_id, device_id)) for number, device_id in changes]
