"""The fan-out of device changes to several watchers."""

from collections.abc import Sequence

import attrs

from hs.core.ids import UserID
from hs.services.accounts.sessions.sessions import DeviceWatcher


@attrs.frozen(eq=False)
class DeviceWatchers:
    """A device watcher that notifies several watchers, one after the other."""

    _watchers: Sequence[DeviceWatcher]

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Notify all watchers of new or renamed devices."""
        for watcher in self._watchers:
            await watcher.devices_changed(user_id, device_ids)

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Notify all watchers of deleted devices."""
        for watcher in self._watchers:
            await watcher.devices_removed(user_id, device_ids)
