"""Cross-signing: uploads of cross-signing keys, and of signatures made with them.

Spec: client-server API, End-to-End Encryption, Cross-signing.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, InvalidSignature, MatrixError, MissingParam, NotFound
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.services.devices.device_list_writer import DeviceListWriter, NewSignature, SigningKeyUpload
from hs.services.devices.key_objects import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    CrossSigningKey,
    check_signed,
    equal_except_signatures,
    parse_cross_signing_key,
    public_key_of,
)
from hs.services.devices.remote_devices import RemoteDevices
from hs.services.devices.user_keys import UserKeys, UserKeysReader


class KeyUploadRequirement(enum.Enum):
    """What an upload of cross-signing keys requires."""

    NOTHING = "nothing"  # the same keys are stored already
    STORING = "storing"  # the first keys: no authentication
    PROOF = "proof"  # keys are replaced or added: user-interactive authentication


@attrs.frozen(eq=False)
class CrossSigning:
    """The checks and storage of cross-signing keys and signatures."""

    _reader: UserKeysReader
    _lists: DeviceListWriter
    _remote: RemoteDevices
    _server_name: ServerName

    async def read(
        self, user_id: UserID, uploaded: Mapping[str, JsonObject | None]
    ) -> tuple[list[CrossSigningKey], KeyUploadRequirement]:
        """Check uploaded keys, by usage; return them and what storing them requires.

        Raises: InvalidParam, BadJson, MissingParam, InvalidSignature, Forbidden.
        """
        keys = [
            parse_cross_signing_key(content, usage, user_id)
            for usage, content in uploaded.items()
            if content is not None
        ]
        stored = await self._reader.get_one(user_id)
        _check_signed_by_master(user_id, keys, stored)
        if any(key.public_key in stored.devices for key in keys):
            raise Forbidden("The public key must not equal the ID of one of your devices")
        stored_keys = stored.cross_signing
        if MASTER not in stored_keys:
            return keys, KeyUploadRequirement.STORING
        if all(
            key.usage in stored_keys and stored_keys[key.usage].public_key == key.public_key
            for key in keys
        ):
            return keys, KeyUploadRequirement.NOTHING
        return keys, KeyUploadRequirement.PROOF

    async def store(
        self, user_id: UserID, keys: Sequence[CrossSigningKey], *, proved: bool
    ) -> None:
        """Store keys that `read` returned. Raises: Forbidden."""
        uploads = [SigningKeyUpload(key.usage, key.public_key, key.canonical) for key in keys]
        if uploads:
            await self._lists.put_cross_signing(user_id, uploads, proved)

    async def add_signatures(
        self, user_id: UserID, signed_objects: Mapping[str, Mapping[str, JsonObject]]
    ) -> dict[str, dict[str, Any]]:
        """Store signatures on keys; return the failures, by user and key name."""
        failures: dict[str, dict[str, Any]] = {}
        signatures: list[NewSignature] = []
        own = await self._reader.get_one(user_id)
        for target, objects in signed_objects.items():
            for name, content in objects.items():
                try:
                    signatures += await self._check_signatures(own, target, name, content)
                except MatrixError as error:
                    failures.setdefault(target, {})[name] = error.body()
        if signatures:
            await self._lists.put_signatures(user_id, signatures)
        return failures

    async def _check_signatures(
        self, own: UserKeys, target: str, name: str, content: JsonObject
    ) -> list[NewSignature]:
        if target == own.user_id:
            if name in own.devices:
                return _check_on_own_device(own, name, content)
            return _check_on_own_master(own, name, content)
        return await self._check_on_other_user(own, parse_user_id(target), name, content)

    async def _check_on_other_user(
        self, own: UserKeys, target: UserID, name: str, content: JsonObject
    ) -> list[NewSignature]:
        key = own.cross_signing.get(USER_SIGNING)
        if key is None:
            raise InvalidSignature("You have no user-signing key")
        if server_of(target) == self._server_name:
            master = (await self._reader.get_one(target)).cross_signing_content(MASTER)
        else:
            master = (await self._remote.cross_signing_keys(target)).get(MASTER)
        if master is None or public_key_of(master) != name:
            raise NotFound("The user has no master key with this ID")
        _check_same(master, content)
        signer = {f"ed25519:{key.public_key}": key.public_key}
        return _new_signatures(own.user_id, target, name, content, signer)


def _check_signed_by_master(
    user_id: UserID, keys: Sequence[CrossSigningKey], stored: UserKeys
) -> None:
    by_usage = {key.usage: key for key in keys}
    uploaded_master = by_usage.get(MASTER)
    stored_master = stored.cross_signing.get(MASTER)
    if uploaded_master is not None:
        master = uploaded_master.public_key
    elif stored_master is not None:
        master = stored_master.public_key
    else:
        raise MissingParam("Missing master_key: you have no master key yet")
    for usage in (SELF_SIGNING, USER_SIGNING):
        key = by_usage.get(usage)
        if key is not None:
            check_signed(key.content, user_id, {f"ed25519:{master}": master})


def _check_on_own_device(own: UserKeys, device_id: str, content: JsonObject) -> list[NewSignature]:
    key = own.cross_signing.get(SELF_SIGNING)
    if key is None:
        raise InvalidSignature("You have no self-signing key")
    _check_same(orjson.loads(own.devices[device_id].content), content)
    signer = {f"ed25519:{key.public_key}": key.public_key}
    return _new_signatures(own.user_id, own.user_id, device_id, content, signer)


def _check_on_own_master(own: UserKeys, name: str, content: JsonObject) -> list[NewSignature]:
    key = own.cross_signing.get(MASTER)
    if key is None or key.public_key != name:
        raise NotFound("You have no device or master key with this ID")
    stored = own.cross_signing_content(MASTER)
    assert stored is not None
    _check_same(stored, content)
    return _new_signatures(own.user_id, own.user_id, name, content, _ed25519_keys(own))


def _ed25519_keys(own: UserKeys) -> dict[str, str]:
    keys: dict[str, str] = {}
    for device_id, device in own.devices.items():
        key_id = f"ed25519:{device_id}"
        public_key = (orjson.loads(device.content).get("keys") or {}).get(key_id)
        if isinstance(public_key, str):
            keys[key_id] = public_key
    return keys


def _check_same(stored: JsonObject, content: JsonObject) -> None:
    if not equal_except_signatures(stored, content):
        raise InvalidSignature("The signed object differs from the stored key")


def _new_signatures(
    signer: UserID, target: UserID, name: str, content: JsonObject, keys: Mapping[str, str]
) -> list[NewSignature]:
    check_signed(content, signer, keys)
    signatures = content["signatures"][signer]
    return [
        NewSignature(target, name, key_id, signature)
        for key_id, signature in signatures.items()
        if key_id in keys
    ]
