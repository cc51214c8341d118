"""Updates of device lists that other servers send as EDUs.

Spec: server-server API, Device Management; End-to-End Encryption.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.errors import Forbidden
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.services.federation.users.device_list_storage import RemoteDeviceListWriter
from hs.services.federation.users.fetched_keys import parse_device_update, parse_signing_keys


@attrs.frozen(eq=False)
class DeviceListUpdates:
    """Passes updates to the writer; they are stored when a method returns."""

    _writer: RemoteDeviceListWriter

    async def update_device(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Take an m.device_list_update. Raises: InvalidParam, Forbidden."""
        user_id = _user_of(origin, content)
        await self._writer.update_device(parse_device_update(user_id, content))

    async def update_signing_keys(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Take an m.signing_key_update. Raises: InvalidParam, Forbidden."""
        user_id = _user_of(origin, content)
        keys = parse_signing_keys(user_id, content)
        if keys:
            await self._writer.update_signing_keys(user_id, keys)


def _user_of(origin: ServerName, content: Mapping[str, Any]) -> UserID:
    user_id = parse_user_id(content.get("user_id"))
    if server_of(user_id) != origin:
        raise Forbidden(f"{user_id} is not a user of {origin}")
    return user_id
