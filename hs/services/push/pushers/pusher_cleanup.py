"""Pushers that go: with their devices, and what was left of those."""

from typing import Final

import attrs

from hs.core.ids import UserID
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.storage.database import Database
from hs.storage.push import pushers as storage

UPKEEP_PERIOD_S: Final = 3600.0
ORPHANS_AT_ONCE: Final = 500


@attrs.frozen(eq=False)
class PushersOfDevices:
    """Deletes the pushers of devices that are logged out."""

    _writer: PusherWriter

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Do nothing: pushers have names of their own."""

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete what these devices set."""
        if device_ids:
            await self._writer.delete_of_devices(user_id, device_ids)


@attrs.frozen(eq=False)
class PusherUpkeep:
    """Finishes what was cut short; hourly, in one process."""

    _database: Database
    _writer: PusherWriter

    async def tidy(self) -> None:
        """Delete pushers whose device or account is gone, and what waits for nobody."""
        for key in await self._database.read(storage.orphans, ORPHANS_AT_ONCE):
            await self._writer.delete(UserID(key.user_id), key.app_id, key.pushkey)
        await self._database.write(storage.prune_all_done)
