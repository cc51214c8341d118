"""The keys of our users, as each viewer may see them.

The owner of device lists keeps them in memory, as it hears of changes before anybody else. Other
processes read them each time: a client that was told of a change must not be given what was
before, and nothing in its question says what it was told.

Spec: client-server API, End-to-End Encryption, Key and signature security.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject, for_keeping
from hs.core.ids import UserID
from hs.lib.caching.loading_cache import LoadingManyCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import DeviceListRow
from hs.repl.streams import DEVICE_LISTS
from hs.services.devices.key_objects import USER_SIGNING
from hs.storage.database import Database, Tx
from hs.storage.devices import device_keys
from hs.storage.devices.device_keys import CrossSigningRecord, DeviceKeysRecord, SignatureRecord

MAX_CACHE_BYTES: Final = 64 * 1024 * 1024
_DEVICE_BYTES: Final = 1000
_SIGNATURE_BYTES: Final = 600
_USER_BYTES: Final = 4000


@attrs.frozen
class DeviceIdentity:
    """What a device said of itself (canonical JSON), and the name its user gave it."""

    content: bytes
    display_name: str | None


@attrs.frozen(eq=False)
class UserKeys:
    """All keys of one user; `signatures` are those on them, by the name of what they sign.

    What all viewers see who signed none of them is rendered once.
    """

    user_id: UserID
    devices: Mapping[str, DeviceIdentity]
    cross_signing: Mapping[str, CrossSigningRecord]
    signatures: Mapping[str, tuple[SignatureRecord, ...]]

    def devices_shown(self, viewer: UserID | None, *, named: bool) -> orjson.Fragment:
        """Give the keys of all devices as a viewer sees them; None is another server."""
        if named and viewer not in self._others_who_signed:
            return self._devices_seen_by_most
        return self._devices_shown(viewer, named=named)

    def device_shown(
        self, device_id: str, viewer: UserID | None, *, named: bool
    ) -> orjson.Fragment:
        """Give a device's keys as a viewer sees them; None is another server."""
        return orjson.Fragment(self._device_shown(device_id, viewer, named=named))

    def cross_signing_shown(self, usage: str, viewer: UserID | None) -> orjson.Fragment | None:
        """Give a cross-signing key as a viewer sees it."""
        if usage == USER_SIGNING and viewer != self.user_id:
            return None
        key = self.cross_signing.get(usage)
        if key is None:
            return None
        if viewer in self._others_who_signed:
            return orjson.Fragment(self._signed(key.content, key.public_key, viewer))
        return self._cross_signing_seen_by_most[usage]

    def cross_signing_content(self, usage: str) -> JsonObject | None:
        """Give a cross-signing key as it was uploaded."""
        key = self.cross_signing.get(usage)
        return None if key is None else orjson.loads(key.content)

    @cached_property
    def _others_who_signed(self) -> frozenset[str]:
        signers = {one.signer_user_id for on_one in self.signatures.values() for one in on_one}
        return frozenset(signers - {self.user_id})

    @cached_property
    def _devices_seen_by_most(self) -> orjson.Fragment:
        return self._devices_shown(None, named=True)

    @cached_property
    def _cross_signing_seen_by_most(self) -> dict[str, orjson.Fragment]:
        return {
            usage: orjson.Fragment(for_keeping(self._signed(key.content, key.public_key, None)))
            for usage, key in self.cross_signing.items()
        }

    def _devices_shown(self, viewer: UserID | None, *, named: bool) -> orjson.Fragment:
        shown = [
            orjson.dumps(device_id) + b":" + self._device_shown(device_id, viewer, named=named)
            for device_id in self.devices
        ]
        return orjson.Fragment(b"{" + b",".join(shown) + b"}")

    def _device_shown(self, device_id: str, viewer: UserID | None, *, named: bool) -> bytes:
        device = self.devices[device_id]
        is_named = named and device.display_name is not None
        unsigned = {"device_display_name": device.display_name} if is_named else {}
        # What is kept has members, and none of this name.
        signed = self._signed(device.content, device_id, viewer)
        return signed[:-1] + b',"unsigned":' + orjson.dumps(unsigned) + b"}"

    def _signed(self, content: bytes, name: str, viewer: UserID | None) -> bytes:
        added = [
            one
            for one in self.signatures.get(name, ())
            if one.signer_user_id in (self.user_id, viewer)
        ]
        if not added:
            return content
        shown = orjson.loads(content)
        signatures = shown.setdefault("signatures", {})
        for one in added:
            signatures.setdefault(one.signer_user_id, {})[one.key_id] = one.signature
        return orjson.dumps(shown)


class UserKeysReader:
    """Reads the keys of our users."""

    def __init__(self, database: Database, feed: Feed, *, is_owner: bool) -> None:
        self._database = database
        self._is_owner = is_owner
        self.cache: Final[LruCache[UserID, UserKeys]] = LruCache(
            "user_keys", max_weight=MAX_CACHE_BYTES, weigh=_weigh
        )
        self._kept = LoadingManyCache(self.cache, self._read)
        feed.subscribe(DEVICE_LISTS, self._on_rows)

    async def of(self, user_ids: Collection[UserID]) -> Mapping[UserID, UserKeys]:
        """Give the keys of users; those unknown have none."""
        return await (self._kept.get(user_ids) if self._is_owner else self._read(list(user_ids)))

    async def of_one(self, user_id: UserID) -> UserKeys:
        """Give the keys of one user."""
        return (await self.of((user_id,)))[user_id]

    def of_one_nowait(self, user_id: UserID) -> UserKeys | None:
        """Give the keys of one user, if they are in memory."""
        return self._kept.get_nowait(user_id)

    async def _read(self, user_ids: list[UserID]) -> dict[UserID, UserKeys]:
        devices, keys, signatures = await self._database.read(_load, list[str](user_ids))
        return _sorted_out(user_ids, devices, keys, signatures)

    def _on_rows(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            for user_id in (row.user_id, *row.targets):
                self._kept.invalidate(UserID(user_id))


def _sorted_out(
    user_ids: Iterable[UserID],
    devices: Iterable[DeviceKeysRecord],
    keys: Iterable[CrossSigningRecord],
    signatures: Iterable[SignatureRecord],
) -> dict[UserID, UserKeys]:
    by_user: dict[str, tuple[list[Any], list[Any], list[Any]]] = {
        user_id: ([], [], []) for user_id in user_ids
    }
    for device in devices:
        by_user[device.user_id][0].append(device)
    for key in keys:
        by_user[key.user_id][1].append(key)
    for signature in signatures:
        by_user[signature.target_user_id][2].append(signature)
    return {UserID(user_id): _gathered(UserID(user_id), *rows) for user_id, rows in by_user.items()}


def _gathered(
    user_id: UserID,
    devices: Iterable[DeviceKeysRecord],
    keys: Iterable[CrossSigningRecord],
    signatures: Iterable[SignatureRecord],
) -> UserKeys:
    by_target: dict[str, tuple[SignatureRecord, ...]] = {}
    for one in signatures:
        by_target[one.target_id] = (*by_target.get(one.target_id, ()), one)
    return UserKeys(
        user_id,
        {one.device_id: DeviceIdentity(one.content, one.display_name) for one in devices},
        {one.usage: one for one in keys},
        by_target,
    )


async def _load(
    tx: Tx, user_ids: list[str]
) -> tuple[list[DeviceKeysRecord], list[CrossSigningRecord], list[SignatureRecord]]:
    return (
        await device_keys.devices_of(tx, user_ids),
        await device_keys.cross_signing_of(tx, user_ids),
        await device_keys.signatures_on(tx, user_ids),
    )


def _weigh(user_id: UserID, keys: UserKeys) -> int:
    signatures = sum(len(on_one) for on_one in keys.signatures.values())
    # They are kept twice, the second time as they are shown.
    contents = sum(len(one.content) for one in keys.devices.values())
    contents += sum(len(one.content) for one in keys.cross_signing.values())
    return (
        _USER_BYTES
        + len(keys.devices) * _DEVICE_BYTES
        + 2 * contents
        + signatures * _SIGNATURE_BYTES
    )
