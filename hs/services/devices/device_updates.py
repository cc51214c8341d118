"""Reactions to device changes, and the hourly cleanup of device data."""

from typing import Final

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.inbox_writer import InboxWriter
from hs.storage.database import Database
from hs.storage.devices import device_keys, device_lists, key_backup, to_device

CLEANUP_PERIOD_S: Final = 3600.0
REQUEST_RETENTION_MS: Final = 24 * 3600 * 1000
CHANGE_RETENTION_MS: Final = 7 * 24 * 3600 * 1000
ORPHAN_BATCH: Final = 500
MAX_PENDING: Final = 100_000  # messages that wait for one device; the oldest are deleted
MAX_REQUESTS: Final = 10_000  # of one device that are remembered


@attrs.frozen(eq=False)
class DeviceUpdates:
    """The device watcher that announces changes and deletes the data of removed devices."""

    _lists: DeviceListWriter
    _inboxes: InboxWriter

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Announce new and renamed devices to users in shared rooms."""
        if device_ids:
            await self._lists.announce(user_id, device_ids)

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the keys and messages of removed devices, and announce the removal."""
        if device_ids:
            await self._inboxes.forget(user_id, device_ids)
            await self._lists.forget(user_id, device_ids)


@attrs.frozen(eq=False)
class DeviceCleanup:
    """The cleanup of device data, which one process runs hourly."""

    _database: Database
    _clock: Clock
    _updates: DeviceUpdates
    _inboxes: InboxWriter

    async def clean_up(self) -> None:
        """Delete old requests and superseded changes, and complete interrupted removals.

        Also delete what exceeds the limits of a device.
        """
        now_ms = self._clock.now_ms()
        await self._delete_requests(now_ms - REQUEST_RETENTION_MS)
        await self._delete_excess_messages()
        await self._database.write(device_lists.prune, now_ms - CHANGE_RETENTION_MS)
        while leftovers := await self._database.read_long(to_device.stale_messages, ORPHAN_BATCH):
            await self._database.write(to_device.delete_stale_messages, leftovers)
        while closed := await self._database.read(
            to_device.users_with_closed_inboxes, ORPHAN_BATCH
        ):
            for user_id in closed:
                await self._inboxes.forget(UserID(user_id), [])
        while await self._database.write(key_backup.delete_leftovers):
            pass
        orphans = await self._database.read_long(device_keys.list_orphans, ORPHAN_BATCH)
        for user_id, device_id in orphans:
            await self._updates.devices_removed(UserID(user_id), [device_id])

    async def _delete_requests(self, before_ms: int) -> None:
        while await self._database.write(to_device.prune_requests, before_ms, ORPHAN_BATCH):
            pass
        excess = await self._database.read_long(
            to_device.excess_requests, MAX_REQUESTS, ORPHAN_BATCH
        )
        for user_id, device_id, since_ms in excess:
            while await self._database.write(
                to_device.prune_requests_of_device, user_id, device_id, since_ms, ORPHAN_BATCH
            ):
                pass

    async def _delete_excess_messages(self) -> None:
        inboxes = await self._database.read_long(to_device.full_inboxes, MAX_PENDING, ORPHAN_BATCH)
        for inbox in inboxes:
            while messages := await self._database.read(
                to_device.excess_messages, inbox, MAX_PENDING, ORPHAN_BATCH
            ):
                await self._database.write(to_device.delete_messages, messages)
