"""Device management: listing, renaming and deleting the devices of a user.

Spec: client-server API, Device Management.
"""

from typing import Any

import attrs

from hs.core.errors import NotFound
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.sessions import (
    DeviceWatcher,
    RequestedDevice,
    Sessions,
    check_device_name,
    ensure_device,
)
from hs.storage.database import Database
from hs.storage.devices import devices
from hs.storage.devices.devices import DeviceRecord


@attrs.frozen
class UserDevice:
    """A device as its user sees it."""

    device_id: str
    display_name: str | None
    last_seen_ip: str | None
    last_seen_ts: int | None


@attrs.define(eq=False)
class DeviceManagement:
    """The device management endpoints' service."""

    _database: Database
    _clock: Clock
    _sessions: Sessions
    _last_seen: LastSeen
    _watcher: DeviceWatcher

    async def all_of(self, user_id: UserID) -> list[UserDevice]:
        """Return a user's devices."""
        records = await self._database.read(devices.list_devices, user_id)
        return [self._device_from(user_id, record) for record in records]

    async def connections_of(self, user_id: UserID) -> dict[str, Any]:
        """Return the connections of each of a user's devices, in the format of `whois`."""
        stored = await self._database.read(devices.list_devices, user_id)
        records = [self._last_seen.with_latest_sighting(user_id, record) for record in stored]
        return {
            record.device_id: {"sessions": [{"connections": _connections_of(record)}]}
            for record in records
        }

    async def find(self, user_id: UserID, device_id: str) -> UserDevice:
        """Return a device. Raises: NotFound."""
        record = await self._database.read(devices.find, user_id, device_id)
        if record is None:
            raise NotFound("Device not found")
        return self._device_from(user_id, record)

    async def rename(self, user_id: UserID, device_id: str, name: str | None) -> None:
        """Set a device's display name; None keeps it.

        Raises: NotFound, InvalidParam.
        """
        check_device_name(name)
        if name is None:
            await self.find(user_id, device_id)
            return
        if not await self._database.write(devices.rename, user_id, device_id, name):
            raise NotFound("Device not found")
        await self._watcher.devices_changed(user_id, [device_id])

    async def put_for_appservice(
        self, requester: Requester, device_id: str, name: str | None
    ) -> bool:
        """Set the name of an appservice user's device, creating the device if needed.

        Return whether the device is new.

        Raises: InvalidParam, Forbidden.
        """
        RequestedDevice(device_id=device_id, display_name=name).check()
        user_id = requester.user_id
        is_new = await self._database.write(
            ensure_device, user_id, device_id, name, self._clock.now_ms()
        )
        if is_new:
            await self._sessions.announce_device(user_id, device_id)
        else:
            await self.rename(user_id, device_id, name)
        return is_new

    async def remove(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete devices with their tokens; unknown device IDs are ignored."""
        await self._sessions.remove_devices(user_id, device_ids)

    def _device_from(self, user_id: UserID, record: DeviceRecord) -> UserDevice:
        record = self._last_seen.with_latest_sighting(user_id, record)
        return UserDevice(
            record.device_id, record.display_name, record.last_seen_ip, record.last_seen_ms
        )


def _connections_of(record: DeviceRecord) -> list[dict[str, Any]]:
    if record.last_seen_ms is None:
        return []
    return [
        {
            "ip": record.last_seen_ip,
            "last_seen": record.last_seen_ms,
            "user_agent": record.last_seen_user_agent,
        }
    ]
