"""Several who must know of devices, told one after the other."""

from collections.abc import Sequence

import attrs

from hs.core.ids import UserID
from hs.services.accounts.sessions.sessions import DeviceWatcher


@attrs.frozen(eq=False)
class DeviceWatchers:
    """Passes on to each what one is told."""

    _watchers: Sequence[DeviceWatcher]

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Pass on that devices are new or have a new name."""
        for watcher in self._watchers:
            await watcher.devices_changed(user_id, device_ids)

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Pass on that devices are gone, with their tokens."""
        for watcher in self._watchers:
            await watcher.devices_removed(user_id, device_ids)
