"""Dehydrated devices, which receive messages while the user is logged out.

Spec: MSC3814.
"""

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, NotFound
from hs.core.ids import UserID
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.inbox_writer import InboxWriter
from hs.services.devices.key_objects import parse_device_keys
from hs.services.devices.one_time_keys import OneTimeKeys, parse_key_upload
from hs.services.devices.to_device import DehydratedDeviceMessages
from hs.storage.database import Database
from hs.storage.devices import dehydrated_devices


@attrs.frozen(kw_only=True)
class DehydratedDevice:
    """A dehydrated device to be stored."""

    device_id: str
    device_data: JsonObject
    device_keys: JsonObject
    one_time_keys: JsonObject
    fallback_keys: JsonObject
    display_name: str | None = None


@attrs.frozen(eq=False)
class DehydratedDevices:
    """The dehydrated devices, at most one per user."""

    _database: Database
    _lists: DeviceListWriter
    _inboxes: InboxWriter
    _one_time_keys: OneTimeKeys
    _events: DehydratedDeviceMessages

    async def put(self, user_id: UserID, device: DehydratedDevice) -> str:
        """Store a device, replacing the previous one; return its ID.

        Raises: InvalidParam, BadJson.
        """
        if not isinstance(device.device_data.get("algorithm"), str):
            raise BadJson("'device_data' must have a string 'algorithm'")
        if not device.device_id:
            raise InvalidParam("device_id must not be empty")
        keys = parse_device_keys(device.device_keys, user_id, device.device_id)
        # Parsed before anything is stored, because it may raise.
        upload = parse_key_upload(
            user_id, device.device_id, device.one_time_keys, device.fallback_keys
        )
        data = orjson.dumps(device.device_data)
        replaced_id = await self._lists.dehydrate(
            user_id, device.device_id, device.display_name, data, keys
        )
        if replaced_id is not None:
            await self._inboxes.forget(user_id, [replaced_id])
        await self._one_time_keys.upload(upload)
        return device.device_id

    async def get(self, user_id: UserID) -> tuple[str, bytes]:
        """Return the ID and the data (JSON) of a user's device. Raises: NotFound."""
        device = await self._database.read(dehydrated_devices.get, user_id)
        if device is None:
            raise NotFound("No dehydrated device")
        return device

    async def delete(self, user_id: UserID) -> str:
        """Delete a user's device; return its ID. Raises: NotFound."""
        device_id = await self._lists.drop_dehydrated(user_id)
        if device_id is None:
            raise NotFound("No dehydrated device")
        await self._inboxes.forget(user_id, [device_id])
        return device_id

    async def events(
        self, user_id: UserID, device_id: str, next_batch: str | None
    ) -> tuple[list[bytes], str]:
        """Return a page of the device's messages (JSON) and the token of the next page.

        Raises: Forbidden, InvalidParam, NotFound.
        """
        stored_id, _ = await self.get(user_id)
        if stored_id != device_id:
            raise Forbidden("device_id is not that of your dehydrated device")
        events, position = await self._events.page(user_id, device_id, _position(next_batch))
        return events, f"d{position}"


def _position(token: str | None) -> int:
    if token is None:
        return 0
    number = token.removeprefix("d")
    if number == token or not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise InvalidParam("next_batch is not a token of this endpoint")
    return int(number)
