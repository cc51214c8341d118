"""Updates of device lists that other servers send as EDUs.

Spec: server-server API, Device Management; End-to-End Encryption.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.ids import ServerName
from hs.services.federation.access.own_users import own_user
from hs.services.federation.users.device_list_storage import RemoteDeviceListWriter
from hs.services.federation.users.fetched_keys import parse_device_update, parse_signing_keys


@attrs.frozen(eq=False)
class DeviceListUpdates:
    """Passes updates to the writer; they are stored when a method returns."""

    _writer: RemoteDeviceListWriter

    async def update_device(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Apply an m.device_list_update. Raises: InvalidParam, Forbidden."""
        user_id = own_user(origin, content.get("user_id"))
        await self._writer.update_device(origin, parse_device_update(user_id, content))

    async def update_signing_keys(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Apply an m.signing_key_update. Raises: InvalidParam, Forbidden."""
        user_id = own_user(origin, content.get("user_id"))
        keys = parse_signing_keys(user_id, content)
        if keys:
            await self._writer.update_signing_keys(origin, user_id, keys)
