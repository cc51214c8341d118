"""Where messages to devices go: the devices of our users, with the inbox of each.

Kept in memory where one process does everything, which hears of each device before anybody is
told of it. With several processes they are read each time: one that is new at another must get
what is sent from now on. A device that is gone may stay in here until that is told; what is put
into its inbox until then is given to nobody, and tidied up.
"""

from collections.abc import Collection, Mapping
from typing import Final

from hs.lib.cache import LruCache
from hs.lib.loading_cache import LoadingManyCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import DeviceListRow
from hs.repl.streams import DEVICE_LISTS
from hs.storage import to_device
from hs.storage.database import Database

MAX_USERS: Final = 20_000

Inboxes = Mapping[str, int]  # by device ID


class DeviceAddresses:
    """Knows the inboxes of users' devices."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._users: LoadingManyCache[str, Inboxes] = LoadingManyCache(
            LruCache("device_inboxes", max_entries=MAX_USERS), self._read
        )
        feed.subscribe(DEVICE_LISTS, self._on_rows)

    async def of(self, user_ids: Collection[str]) -> dict[str, Inboxes]:
        """Give the inboxes of users' devices; users without any have none."""
        return await self._users.get(user_ids)

    async def _read(self, user_ids: list[str]) -> dict[str, Inboxes]:
        found = await self._database.read(to_device.devices, user_ids)
        return {user_id: found.get(user_id, {}) for user_id in user_ids}

    def _on_rows(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            self._users.invalidate(row.user_id)
