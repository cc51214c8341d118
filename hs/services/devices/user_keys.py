"""The keys of local users, rendered for each viewer with the signatures that the viewer may see.

Only a single owner of the stream `device_lists` caches keys, because it sees every change first.
Other processes, and several owners, read the database for each request: a client that learned of a
change must not get the keys from before it, and its request does not tell which changes it knows.

Spec: client-server API, End-to-End Encryption, Key and signature security.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject, shrink_to_fit
from hs.core.ids import UserID
from hs.core.streams import DEVICE_LISTS, DeviceListRow
from hs.lib.caching.loading_cache import LoadingManyCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
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
    """The uploaded keys of a device (canonical JSON) and its display name."""

    content: bytes
    display_name: str | None


@attrs.frozen(eq=False)
class UserKeys:
    """All keys of a user, and the `signatures` on them, by device ID or public key.

    The JSON for viewers who signed none of the keys is rendered once.
    """

    user_id: UserID
    devices: Mapping[str, DeviceIdentity]
    cross_signing: Mapping[str, CrossSigningRecord]
    signatures: Mapping[str, tuple[SignatureRecord, ...]]

    def render_devices(self, viewer: UserID | None, *, with_names: bool) -> orjson.Fragment:
        """Render the keys of all devices for a viewer; None is another server."""
        if with_names and viewer not in self._other_signers:
            return self._devices_for_most_viewers
        return self._render_devices(viewer, with_names=with_names)

    def render_device(
        self, device_id: str, viewer: UserID | None, *, with_names: bool
    ) -> orjson.Fragment:
        """Render a device's keys for a viewer; None is another server."""
        return orjson.Fragment(self._render_device(device_id, viewer, with_names=with_names))

    def render_cross_signing(self, usage: str, viewer: UserID | None) -> orjson.Fragment | None:
        """Render a cross-signing key for a viewer; None if there is none, or it is private."""
        if usage == USER_SIGNING and viewer != self.user_id:
            return None
        key = self.cross_signing.get(usage)
        if key is None:
            return None
        if viewer in self._other_signers:
            return orjson.Fragment(self._with_signatures(key.content, key.public_key, viewer))
        return self._cross_signing_for_most_viewers[usage]

    def cross_signing_content(self, usage: str) -> JsonObject | None:
        """Return a cross-signing key as it was uploaded."""
        key = self.cross_signing.get(usage)
        return None if key is None else orjson.loads(key.content)

    @cached_property
    def _other_signers(self) -> frozenset[str]:
        signers = {
            signature.signer_user_id
            for signatures in self.signatures.values()
            for signature in signatures
        }
        return frozenset(signers - {self.user_id})

    @cached_property
    def _devices_for_most_viewers(self) -> orjson.Fragment:
        return self._render_devices(None, with_names=True)

    @cached_property
    def _cross_signing_for_most_viewers(self) -> dict[str, orjson.Fragment]:
        return {
            usage: orjson.Fragment(
                shrink_to_fit(self._with_signatures(key.content, key.public_key, None))
            )
            for usage, key in self.cross_signing.items()
        }

    def _render_devices(self, viewer: UserID | None, *, with_names: bool) -> orjson.Fragment:
        entries = [
            orjson.dumps(device_id)
            + b":"
            + self._render_device(device_id, viewer, with_names=with_names)
            for device_id in self.devices
        ]
        return orjson.Fragment(b"{" + b",".join(entries) + b"}")

    def _render_device(self, device_id: str, viewer: UserID | None, *, with_names: bool) -> bytes:
        device = self.devices[device_id]
        has_name = with_names and device.display_name is not None
        unsigned = {"device_display_name": device.display_name} if has_name else {}
        # The stored object is not empty and has no member `unsigned`.
        content = self._with_signatures(device.content, device_id, viewer)
        return content[:-1] + b',"unsigned":' + orjson.dumps(unsigned) + b"}"

    def _with_signatures(self, content: bytes, name: str, viewer: UserID | None) -> bytes:
        visible = [
            signature
            for signature in self.signatures.get(name, ())
            if signature.signer_user_id in (self.user_id, viewer)
        ]
        if not visible:
            return content
        signed = orjson.loads(content)
        by_signer = signed.setdefault("signatures", {})
        for signature in visible:
            by_signer.setdefault(signature.signer_user_id, {})[signature.key_id] = (
                signature.signature
            )
        return orjson.dumps(signed)


class UserKeysReader:
    """The reader of local users' keys, with a cache in the only owner of device lists."""

    def __init__(self, database: Database, feed: Feed, *, is_owner: bool) -> None:
        self._database = database
        self._is_owner = is_owner
        self.cache: Final[LruCache[UserID, UserKeys]] = LruCache(
            "user_keys", max_weight=MAX_CACHE_BYTES, weigh=_weigh
        )
        self._cached = LoadingManyCache(self.cache, self._read)
        feed.subscribe(DEVICE_LISTS, self._on_rows)

    async def get(self, user_ids: Collection[UserID]) -> Mapping[UserID, UserKeys]:
        """Return the keys of each user; unknown users have none."""
        return await (self._cached.get(user_ids) if self._is_owner else self._read(list(user_ids)))

    async def get_one(self, user_id: UserID) -> UserKeys:
        """Return the keys of a user."""
        return (await self.get((user_id,)))[user_id]

    def get_one_nowait(self, user_id: UserID) -> UserKeys | None:
        """Return the keys of a user if they are cached."""
        return self._cached.get_nowait(user_id)

    async def signatures_by(
        self, signer: UserID, targets: Collection[str]
    ) -> list[SignatureRecord]:
        """Return a local user's signatures on keys of users, also of other servers."""
        if not targets:
            return []
        return await self._database.read(device_keys.list_signatures_by, signer, list(targets))

    async def _read(self, user_ids: list[UserID]) -> dict[UserID, UserKeys]:
        devices, keys, signatures = await self._database.read(_load, list[str](user_ids))
        return _group_by_user(user_ids, devices, keys, signatures)

    def _on_rows(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            for user_id in (row.user_id, *row.targets):
                self._cached.invalidate(UserID(user_id))


def _group_by_user(
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
    return {
        UserID(user_id): _user_keys(UserID(user_id), *rows) for user_id, rows in by_user.items()
    }


def _user_keys(
    user_id: UserID,
    devices: Iterable[DeviceKeysRecord],
    keys: Iterable[CrossSigningRecord],
    signatures: Iterable[SignatureRecord],
) -> UserKeys:
    by_target: dict[str, tuple[SignatureRecord, ...]] = {}
    for signature in signatures:
        by_target[signature.target_id] = (*by_target.get(signature.target_id, ()), signature)
    return UserKeys(
        user_id,
        {
            record.device_id: DeviceIdentity(record.content, record.display_name)
            for record in devices
        },
        {key.usage: key for key in keys},
        by_target,
    )


async def _load(
    tx: Tx, user_ids: list[str]
) -> tuple[list[DeviceKeysRecord], list[CrossSigningRecord], list[SignatureRecord]]:
    return (
        await device_keys.list_device_keys(tx, user_ids),
        await device_keys.list_cross_signing_keys(tx, user_ids),
        await device_keys.list_signatures(tx, user_ids),
    )


def _weigh(user_id: UserID, keys: UserKeys) -> int:
    signatures = sum(len(on_target) for on_target in keys.signatures.values())
    # Contents are held twice: as uploaded and as rendered.
    contents = sum(len(device.content) for device in keys.devices.values())
    contents += sum(len(key.content) for key in keys.cross_signing.values())
    return (
        _USER_BYTES
        + len(keys.devices) * _DEVICE_BYTES
        + 2 * contents
        + signatures * _SIGNATURE_BYTES
    )
