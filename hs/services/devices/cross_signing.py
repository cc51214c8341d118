"""Cross-signing: the keys by which users vouch for their devices and for each other.

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
    public_key_of,
    read_cross_signing_key,
    same_but_signatures,
)
from hs.services.devices.remote_devices import RemoteDevices
from hs.services.devices.user_keys import UserKeys, UserKeysReader


class Need(enum.Enum):
    """What an upload of cross-signing keys asks of the user."""

    NOTHING = "nothing"  # the same keys are here already
    STORING = "storing"  # the first keys
    PROOF = "proof"  # keys are replaced or added


@attrs.frozen(eq=False)
class CrossSigning:
    """Takes cross-signing keys and the signatures made with them."""

    _reader: UserKeysReader
    _lists: DeviceListWriter
    _remote: RemoteDevices
    _server_name: ServerName

    async def read(
        self, user_id: UserID, uploaded: Mapping[str, JsonObject | None]
    ) -> tuple[list[CrossSigningKey], Need]:
        """Check an upload, by usage, and tell what it takes to store it.

        Raises: InvalidParam, BadJson, MissingParam, InvalidSignature, Forbidden.
        """
        keys = [
            read_cross_signing_key(content, usage, user_id)
            for usage, content in uploaded.items()
            if content is not None
        ]
        held = await self._reader.of_one(user_id)
        _check_signed_by_master(user_id, keys, held)
        if any(key.public_key in held.devices for key in keys):
            raise Forbidden("The public key is the ID of one of your devices")
        known = held.cross_signing
        if MASTER not in known:
            return keys, Need.STORING
        if all(
            key.usage in known and known[key.usage].public_key == key.public_key for key in keys
        ):
            return keys, Need.NOTHING
        return keys, Need.PROOF

    async def store(
        self, user_id: UserID, keys: Sequence[CrossSigningKey], *, proved: bool
    ) -> None:
        """Store keys that were read. Raises: Forbidden."""
        uploads = [SigningKeyUpload(key.usage, key.public_key, key.canonical) for key in keys]
        if uploads:
            await self._lists.put_cross_signing(user_id, uploads, proved)

    async def add_signatures(
        self, user_id: UserID, signed: Mapping[str, Mapping[str, JsonObject]]
    ) -> dict[str, dict[str, Any]]:
        """Take signatures on keys; give the failures, by user and name of the key."""
        failures: dict[str, dict[str, Any]] = {}
        fresh: list[NewSignature] = []
        own = await self._reader.of_one(user_id)
        for target, objects in signed.items():
            for name, content in objects.items():
                try:
                    fresh += await self._signatures(own, target, name, content)
                except MatrixError as error:
                    failures.setdefault(target, {})[name] = error.body()
        if fresh:
            await self._lists.put_signatures(user_id, fresh)
        return failures

    async def _signatures(
        self, own: UserKeys, target: str, name: str, content: JsonObject
    ) -> list[NewSignature]:
        if target == own.user_id:
            if name in own.devices:
                return _on_own_device(own, name, content)
            return _on_own_master(own, name, content)
        return await self._on_others_master(own, parse_user_id(target), name, content)

    async def _on_others_master(
        self, own: UserKeys, target: UserID, name: str, content: JsonObject
    ) -> list[NewSignature]:
        key = own.cross_signing.get(USER_SIGNING)
        if key is None:
            raise InvalidSignature("You have no user-signing key")
        if server_of(target) == self._server_name:
            theirs = (await self._reader.of_one(target)).cross_signing_content(MASTER)
        else:
            theirs = (await self._remote.cross_signing_keys(target)).get(MASTER)
        if theirs is None or public_key_of(theirs) != name:
            raise NotFound("The user has no such master key")
        _check_same(theirs, content)
        signer = {f"ed25519:{key.public_key}": key.public_key}
        return _checked(own.user_id, target, name, content, signer)


def _check_signed_by_master(
    user_id: UserID, keys: Sequence[CrossSigningKey], held: UserKeys
) -> None:
    by_usage = {key.usage: key for key in keys}
    uploaded = by_usage.get(MASTER)
    stored = held.cross_signing.get(MASTER)
    if uploaded is not None:
        master = uploaded.public_key
    elif stored is not None:
        master = stored.public_key
    else:
        raise MissingParam("There is no master signing key")
    for usage in (SELF_SIGNING, USER_SIGNING):
        key = by_usage.get(usage)
        if key is not None:
            check_signed(key.content, user_id, {f"ed25519:{master}": master})


def _on_own_device(own: UserKeys, device_id: str, content: JsonObject) -> list[NewSignature]:
    key = own.cross_signing.get(SELF_SIGNING)
    if key is None:
        raise InvalidSignature("You have no self-signing key")
    _check_same(orjson.loads(own.devices[device_id].content), content)
    signer = {f"ed25519:{key.public_key}": key.public_key}
    return _checked(own.user_id, own.user_id, device_id, content, signer)


def _on_own_master(own: UserKeys, name: str, content: JsonObject) -> list[NewSignature]:
    key = own.cross_signing.get(MASTER)
    if key is None or key.public_key != name:
        raise NotFound("You have no such device or master key")
    stored = own.cross_signing_content(MASTER)
    assert stored is not None
    _check_same(stored, content)
    return _checked(own.user_id, own.user_id, name, content, _device_keys(own))


def _device_keys(own: UserKeys) -> dict[str, str]:
    keys: dict[str, str] = {}
    for device_id, device in own.devices.items():
        key_id = f"ed25519:{device_id}"
        public_key = (orjson.loads(device.content).get("keys") or {}).get(key_id)
        if isinstance(public_key, str):
            keys[key_id] = public_key
    return keys


def _check_same(stored: JsonObject, content: JsonObject) -> None:
    if not same_but_signatures(stored, content):
        raise InvalidSignature("What was signed is not the key that is here")


def _checked(
    signer: UserID, target: UserID, name: str, content: JsonObject, keys: Mapping[str, str]
) -> list[NewSignature]:
    check_signed(content, signer, keys)
    given = content["signatures"][signer]
    return [
        NewSignature(target, name, key_id, signature)
        for key_id, signature in given.items()
        if key_id in keys
    ]
