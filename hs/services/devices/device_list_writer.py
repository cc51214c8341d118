"""The owner of device lists: writes keys and devices that others track, and announces them.

Each change is written together with its row of the stream, so that nobody can miss one.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.repl.rows import DeviceListRow
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices.key_objects import USER_SIGNING
from hs.services.devices.one_time_key_storage import KeyUpload, no_such_device, store_keys
from hs.storage.database import ForeignViolation, Tx
from hs.storage.devices import dehydrated_devices, device_keys, device_lists, devices, key_uploads
from hs.storage.devices.device_keys import CrossSigningRecord, SignatureRecord

Rows = list[tuple[int, DeviceListRow]]


@attrs.frozen
class SigningKeyUpload:
    """One cross-signing key to be stored; `content` is canonical JSON."""

    usage: str
    public_key: str
    content: bytes


@attrs.frozen
class NewSignature:
    """A signature to be stored on a device's keys or a cross-signing key."""

    target_user_id: UserID
    target_id: str
    key_id: str
    signature: str


class DeviceListWriter(Protocol):
    """The process that writes device lists."""

    @rpc
    async def put_device_keys(self, content: bytes, others: KeyUpload) -> dict[str, int] | None:
        """Set a device's keys, and add those that others claim: all of it or nothing.

        Gives how many one-time keys wait for each algorithm. None: the device's keys are the same
        already, and nothing was done. Raises: NotFound, Forbidden, InvalidParam.
        """
        ...

    @rpc
    async def put_cross_signing(
        self, user_id: UserID, keys: list[SigningKeyUpload], proved: bool
    ) -> None:
        """Set cross-signing keys; other ones only if the user `proved` who they are.

        Raises: Forbidden.
        """
        ...

    @rpc
    async def put_signatures(self, user_id: UserID, signatures: list[NewSignature]) -> None:
        """Add signatures that a user made, checked by the caller; the same again are no change."""
        ...

    @rpc
    async def announce(self, user_id: UserID, device_ids: list[str]) -> None:
        """Tell that devices are new or have changed; none: that the user's keys have."""
        ...

    @rpc
    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop the keys of devices that are gone, and tell."""
        ...

    @rpc
    async def dehydrate(
        self, user_id: UserID, device_id: str, name: str | None, device_data: bytes, keys: bytes
    ) -> str | None:
        """Set a user's dehydrated device; give the ID of the one it replaces.

        Raises: InvalidParam.
        """
        ...

    @rpc
    async def drop_dehydrated(self, user_id: UserID) -> str | None:
        """Delete a user's dehydrated device; give its ID."""
        ...


@attrs.frozen(eq=False)
class LocalDeviceLists:
    """The writer itself."""

    _stream: TableWriter[DeviceListRow]
    _clock: Clock

    async def put_device_keys(self, content: bytes, others: KeyUpload) -> dict[str, int] | None:
        """Set a device's keys, with those that others claim."""
        now_ms = self._clock.now_ms()
        try:
            return await self._stream.write(_put_device_keys, content, others, now_ms)
        except ForeignViolation as error:
            raise no_such_device() from error

    async def put_cross_signing(
        self, user_id: UserID, keys: list[SigningKeyUpload], proved: bool
    ) -> None:
        """Set cross-signing keys; the same keys again are no change."""
        now_ms = self._clock.now_ms()
        await self._stream.write(_put_cross_signing, user_id, keys, proved, now_ms)

    async def put_signatures(self, user_id: UserID, signatures: list[NewSignature]) -> None:
        """Add signatures."""
        await self._stream.write(_put_signatures, user_id, signatures, self._clock.now_ms())

    async def announce(self, user_id: UserID, device_ids: list[str]) -> None:
        """Tell of changes."""
        await self._stream.write(_announce, user_id, device_ids, self._clock.now_ms())

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop the keys of devices, and tell."""
        await self._stream.write(_forget, user_id, device_ids, self._clock.now_ms())

    async def dehydrate(
        self, user_id: UserID, device_id: str, name: str | None, device_data: bytes, keys: bytes
    ) -> str | None:
        """Set a user's dehydrated device."""
        wish = _Dehydration(user_id, device_id, name, device_data, keys)
        return await self._stream.write(_dehydrate, wish, self._clock.now_ms())

    async def drop_dehydrated(self, user_id: UserID) -> str | None:
        """Delete a user's dehydrated device."""
        return await self._stream.write(_drop_dehydrated, user_id, self._clock.now_ms())


@attrs.frozen
class _Dehydration:
    user_id: UserID
    device_id: str
    name: str | None
    device_data: bytes
    keys: bytes


async def _put_device_keys(
    tx: Tx, ids: StreamIds, content: bytes, others: KeyUpload, now_ms: int
) -> tuple[dict[str, int] | None, Rows]:
    user_id, device_id = others.user_id, others.device_id
    known = await key_uploads.known_with_rooms(tx, user_id, device_id)
    if known is None:
        raise no_such_device()
    if known.content == content:
        return None, []
    # Devices and cross-signing keys share a namespace.
    if known.is_name_of_cross_signing_key:
        raise Forbidden("The device ID is the name of one of your cross-signing keys")
    await device_keys.put_device(tx, user_id, device_id, content)
    counts = await store_keys(tx, others, known) or known.counts
    return counts, await _told(tx, ids, user_id, [device_id], known.room_ids, now_ms)


async def _put_cross_signing(
    tx: Tx,
    ids: StreamIds,
    user_id: str,
    keys: list[SigningKeyUpload],
    proved: bool,
    now_ms: int,
) -> tuple[None, Rows]:
    held = {one.usage: one for one in await device_keys.cross_signing_of(tx, [user_id])}
    fresh = [
        key for key in keys if key.usage not in held or held[key.usage].public_key != key.public_key
    ]
    if not fresh:
        return None, []
    if held and not proved:
        raise Forbidden("Other keys were uploaded meanwhile")
    for key in fresh:
        if await devices.find(tx, user_id, key.public_key) is not None:
            raise Forbidden("The public key is the ID of one of your devices")
        record = CrossSigningRecord(user_id, key.usage, key.public_key, key.content)
        await device_keys.put_cross_signing(tx, record)
    replaced = [held[key.usage].public_key for key in fresh if key.usage in held]
    if replaced:
        await device_keys.forget_public_keys(tx, user_id, replaced)
    if all(key.usage == USER_SIGNING for key in fresh):
        # Nobody else may see it, so nobody else is to ask for it.
        return None, await _told_oneself(tx, ids, user_id, [UserID(user_id)], now_ms)
    return None, await _announced(tx, ids, user_id, [None], now_ms)


async def _put_signatures(
    tx: Tx, ids: StreamIds, user_id: str, signatures: list[NewSignature], now_ms: int
) -> tuple[None, Rows]:
    records = [
        SignatureRecord(one.target_user_id, one.target_id, user_id, one.key_id, one.signature)
        for one in signatures
    ]
    held = set(await device_keys.signatures_on(tx, sorted({one.target_user_id for one in records})))
    fresh = [one for one in dict.fromkeys(records) if one not in held]
    if not fresh:
        return None, []
    await device_keys.put_signatures(tx, fresh)
    rows: Rows = []
    targets = {UserID(one.target_user_id) for one in fresh}
    if user_id in targets:
        rows += await _announced(tx, ids, user_id, [None], now_ms)
    others = sorted(targets - {UserID(user_id)})
    if others:
        rows += await _told_oneself(tx, ids, user_id, others, now_ms)
    return None, rows


async def _announce(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str], now_ms: int
) -> tuple[None, Rows]:
    return None, await _announced(tx, ids, user_id, device_ids or [None], now_ms)


async def _forget(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str], now_ms: int
) -> tuple[None, Rows]:
    # One that is there was made anew meanwhile.
    gone = await devices.gone_among(tx, user_id, device_ids)
    await device_keys.delete_devices(tx, user_id, gone)
    for device_id in gone:
        await dehydrated_devices.delete_device(tx, user_id, device_id)
    return None, await _announced(tx, ids, user_id, device_ids, now_ms)


async def _dehydrate(
    tx: Tx, ids: StreamIds, wish: _Dehydration, now_ms: int
) -> tuple[str | None, Rows]:
    user_id, device_id = wish.user_id, wish.device_id
    held = await dehydrated_devices.get(tx, user_id)
    old_id = None if held is None else held[0]
    if old_id != device_id and await devices.find(tx, user_id, device_id) is not None:
        raise InvalidParam("You have another device with this ID")
    changed: list[str | None] = [device_id]
    if old_id is not None:
        await devices.delete(tx, user_id, [old_id])
        await device_keys.delete_devices(tx, user_id, [old_id])
        if old_id != device_id:
            changed.append(old_id)
    await devices.ensure(tx, user_id, device_id, wish.name, now_ms)
    await device_keys.put_device(tx, user_id, device_id, wish.keys)
    await dehydrated_devices.put(tx, user_id, device_id, wish.device_data)
    return old_id, await _announced(tx, ids, user_id, changed, now_ms)


async def _drop_dehydrated(
    tx: Tx, ids: StreamIds, user_id: str, now_ms: int
) -> tuple[str | None, Rows]:
    held = await dehydrated_devices.get(tx, user_id)
    if held is None:
        return None, []
    device_id = held[0]
    await dehydrated_devices.delete(tx, user_id)
    await devices.delete(tx, user_id, [device_id])
    await device_keys.delete_devices(tx, user_id, [device_id])
    return device_id, await _announced(tx, ids, user_id, [device_id], now_ms)


async def _told_oneself(
    tx: Tx, ids: StreamIds, user_id: str, targets: Sequence[UserID], now_ms: int
) -> Rows:
    """Tell a user alone that the keys of `targets` look different to them."""
    numbered = list(zip(await ids.many(len(targets)), targets, strict=True))
    await device_lists.add_signed(tx, user_id, numbered, now_ms)
    return [(one, DeviceListRow(user_id, None, True, (target,))) for one, target in numbered]


async def _announced(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: Sequence[str | None], now_ms: int
) -> Rows:
    room_ids = tuple(await device_lists.rooms_of(tx, user_id))
    return await _told(tx, ids, user_id, device_ids, room_ids, now_ms)


async def _told(
    tx: Tx,
    ids: StreamIds,
    user_id: str,
    device_ids: Sequence[str | None],
    room_ids: tuple[str, ...],
    now_ms: int,
) -> Rows:
    numbers = await ids.many(len(device_ids))
    changes = list(zip(numbers, device_ids, strict=True))
    await device_lists.add(
        tx, [(number, user_id, device_id, now_ms) for number, device_id in changes]
    )
    return [
        (number, DeviceListRow(user_id, device_id, room_ids=room_ids))
        for number, device_id in changes
    ]
