"""Deletion of pushers whose device, account or address was deleted."""

from typing import Final

import attrs

from hs.core.ids import UserID
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.storage.database import Database
from hs.storage.push import pushers as storage

CLEANUP_PERIOD_S: Final = 3600.0
ORPHANS_AT_ONCE: Final = 500


@attrs.frozen(eq=False)
class DevicePusherRemoval:
    """Deletes the pushers of deleted devices."""

    _writer: PusherWriter

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Do nothing: pushers do not depend on other properties of devices."""

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the pushers that these devices set."""
        if device_ids:
            await self._writer.delete_of_devices(user_id, device_ids)


@attrs.frozen(eq=False)
class PusherCleanup:
    """Deletes what earlier deletions left behind; hourly, in one process."""

    _database: Database
    _writer: PusherWriter

    async def clean_up(self) -> None:
        """Delete pushers without a device, account or address, and notifications without pusher."""
        for key in await self._database.read(storage.list_orphans, ORPHANS_AT_ONCE):
            await self._writer.delete(UserID(key.user_id), key.app_id, key.pushkey)
        await self._database.write(storage.delete_all_sent)
