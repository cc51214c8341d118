"""EDUs about the devices and the cross-signing keys of local users.

The updates of a user's devices are a chain: each names the previous one, whichever servers that was
sent to. A server that misses one asks for all devices.

Spec: server-server API, Device Management and End-to-End Encryption.
"""

from typing import Any, Final

import attrs
import orjson

from hs.core.edus import DEVICE_LIST_UPDATE, SIGNING_KEY_UPDATE
from hs.core.ids import UserID
from hs.services.devices.key_objects import MASTER, SELF_SIGNING
from hs.services.devices.user_keys import UserKeys, UserKeysReader
from hs.services.federation.outbound.edus import encode_edu
from hs.storage.database import Database
from hs.storage.federation import outbound as storage
from hs.storage.federation.outbound import MissedChangesRecord

UNSTABLE_SIGNING_KEY_UPDATE: Final = "org.matrix.signing_key_update"


@attrs.frozen(eq=False)
class DeviceEdus:
    """Renders the EDUs about changes; `shows_names`: other servers see display names of devices."""

    _database: Database
    _keys: UserKeysReader
    _shows_names: bool

    async def of_change(self, user_id: UserID, device_id: str | None, position: int) -> list[bytes]:
        """Return the EDUs about a change of a device, or without it of the user's keys."""
        if device_id is None:
            return await self._signing_keys(user_id)
        return [await self._device(user_id, device_id, position)]

    async def missed(self, change: MissedChangesRecord) -> list[bytes]:
        """Return the EDUs about the last changes of a user."""
        user_id = UserID(change.user_id)
        edus: list[bytes] = []
        if change.device_change:
            device_id = await self._database.read(storage.device_of_change, change.device_change)
            if device_id is not None:
                edus.append(await self._device(user_id, device_id, change.device_change))
        if change.keys_change:
            edus += await self._signing_keys(user_id)
        return edus

    async def _device(self, user_id: UserID, device_id: str, position: int) -> bytes:
        previous = await self._database.read(storage.previous_change, user_id, position)
        content: dict[str, Any] = {
            "user_id": user_id,
            "device_id": device_id,
            "stream_id": position,
            "prev_id": [] if previous is None else [previous],
        }
        exists, name = await self._database.read(storage.find_device, user_id, device_id)
        if not exists:
            content["deleted"] = True
            return encode_edu(DEVICE_LIST_UPDATE, content)
        if name is not None and self._shows_names:
            content["device_display_name"] = name
        keys = await self._keys.get_one(user_id)
        if device_id in keys.devices:
            rendered = keys.render_device(device_id, None, with_names=self._shows_names)
            content["keys"] = orjson.loads(orjson.dumps(rendered))
        return encode_edu(DEVICE_LIST_UPDATE, content)

    async def _signing_keys(self, user_id: UserID) -> list[bytes]:
        keys = await self._keys.get_one(user_id)
        content = {"user_id": user_id}
        for name, usage in (("master_key", MASTER), ("self_signing_key", SELF_SIGNING)):
            key = _cross_signing(keys, usage)
            if key is not None:
                content[name] = key
        if len(content) == 1:
            return []
        return [
            encode_edu(edu_type, content)
            for edu_type in (SIGNING_KEY_UPDATE, UNSTABLE_SIGNING_KEY_UPDATE)
        ]


def _cross_signing(keys: UserKeys, usage: str) -> Any | None:
    rendered = keys.render_cross_signing(usage, None)
    return None if rendered is None else orjson.loads(orjson.dumps(rendered))
