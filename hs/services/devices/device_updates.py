"""What follows when devices come, change and go; and what is tidied up now and then."""

from typing import Final

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.inbox_writer import InboxWriter
from hs.storage.database import Database
from hs.storage.devices import device_keys, device_lists, to_device

UPKEEP_PERIOD_S: Final = 3600.0
REQUESTS_KEPT_MS: Final = 24 * 3600 * 1000
CHANGES_KEPT_MS: Final = 7 * 24 * 3600 * 1000
ORPHANS_AT_ONCE: Final = 500


@attrs.frozen(eq=False)
class DeviceUpdates:
    """The watcher of sessions: announces devices, and drops what belonged to those gone."""

    _lists: DeviceListWriter
    _inboxes: InboxWriter

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Tell others that devices are new or have a new name."""
        if device_ids:
            await self._lists.announce(user_id, device_ids)

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop keys and messages of devices, and tell others that they are gone."""
        if device_ids:
            await self._inboxes.forget(user_id, device_ids)
            await self._lists.forget(user_id, device_ids)


@attrs.frozen(eq=False)
class DeviceUpkeep:
    """Forgets what nobody can ask for any more; hourly, in one process."""

    _database: Database
    _clock: Clock
    _updates: DeviceUpdates
    _inboxes: InboxWriter

    async def tidy(self) -> None:
        """Forget old requests and superseded changes, and finish removals that were cut short."""
        now_ms = self._clock.now_ms()
        await self._database.write(to_device.prune_requests, now_ms - REQUESTS_KEPT_MS)
        await self._database.write(device_lists.prune, now_ms - CHANGES_KEPT_MS)
        while found := await self._database.read_long(to_device.leftovers, ORPHANS_AT_ONCE):
            await self._database.write(to_device.delete_leftovers, found)
        while closed := await self._database.read(to_device.closed, ORPHANS_AT_ONCE):
            for user_id in closed:
                await self._inboxes.forget(UserID(user_id), [])
        orphans = await self._database.read_long(device_keys.orphans, ORPHANS_AT_ONCE)
        for user_id, device_id in orphans:
            await self._updates.devices_removed(UserID(user_id), [device_id])
