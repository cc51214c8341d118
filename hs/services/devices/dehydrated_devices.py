"""Dehydrated devices: take messages for a user who is logged in nowhere.

Spec: MSC3814.
"""

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, NotFound
from hs.core.ids import UserID
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.inbox_writer import InboxWriter
from hs.services.devices.key_objects import read_device_keys
from hs.services.devices.one_time_keys import OneTimeKeys, read_upload
from hs.services.devices.to_device import DehydratedEvents
from hs.storage.database import Database
from hs.storage.devices import dehydrated_devices


@attrs.frozen(kw_only=True)
class Dehydration:
    """A device to be stored."""

    device_id: str
    device_data: JsonObject
    device_keys: JsonObject
    one_time_keys: JsonObject
    fallback_keys: JsonObject
    display_name: str | None = None


@attrs.frozen(eq=False)
class DehydratedDevices:
    """At most one of each user."""

    _database: Database
    _lists: DeviceListWriter
    _inboxes: InboxWriter
    _one_time_keys: OneTimeKeys
    _events: DehydratedEvents

    async def put(self, user_id: UserID, wish: Dehydration) -> str:
        """Store a device in the place of the one before; give its ID.

        Raises: InvalidParam, BadJson.
        """
        if not isinstance(wish.device_data.get("algorithm"), str):
            raise BadJson("'device_data' must name its algorithm")
        if not wish.device_id:
            raise InvalidParam("The device needs an ID")
        keys = read_device_keys(wish.device_keys, user_id, wish.device_id)
        # Checked before anything is stored.
        upload = read_upload(user_id, wish.device_id, wish.one_time_keys, wish.fallback_keys)
        data = orjson.dumps(wish.device_data)
        replaced = await self._lists.dehydrate(
            user_id, wish.device_id, wish.display_name, data, keys
        )
        if replaced is not None:
            await self._inboxes.forget(user_id, [replaced])
        await self._one_time_keys.upload(upload)
        return wish.device_id

    async def get(self, user_id: UserID) -> tuple[str, bytes]:
        """Give the ID and the data (JSON) of a user's device. Raises: NotFound."""
        found = await self._database.read(dehydrated_devices.get, user_id)
        if found is None:
            raise NotFound("You have no dehydrated device")
        return found

    async def delete(self, user_id: UserID) -> str:
        """Delete a user's device; give its ID. Raises: NotFound."""
        device_id = await self._lists.drop_dehydrated(user_id)
        if device_id is None:
            raise NotFound("You have no dehydrated device")
        await self._inboxes.forget(user_id, [device_id])
        return device_id

    async def events(
        self, user_id: UserID, device_id: str, next_batch: str | None
    ) -> tuple[list[bytes], str]:
        """Give a page of the device's messages (JSON) and the token of the next.

        Raises: Forbidden, InvalidParam, NotFound.
        """
        held_id, _ = await self.get(user_id)
        if held_id != device_id:
            raise Forbidden("This is not your dehydrated device")
        events, reached = await self._events.page(user_id, device_id, _position(next_batch))
        return events, f"d{reached}"


def _position(token: str | None) -> int:
    if token is None:
        return 0
    number = token.removeprefix("d")
    if number == token or not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise InvalidParam("That is not a token of this endpoint")
    return int(number)
