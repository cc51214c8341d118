"""The duty that deletes devices unused for the configured time, with their sessions."""

import logging
from itertools import groupby
from operator import itemgetter
from typing import Final

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.accounts.sessions.sessions import Sessions
from hs.storage.database import Database
from hs.storage.devices import devices

EVERY_S: Final = 24 * 3600.0
BATCH: Final = 500

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class StaleDeviceCleanup:
    """The cleanup of unused devices; devices of application services are kept."""

    _database: Database
    _clock: Clock
    _sessions: Sessions
    _period_ms: int

    async def delete(self) -> int:
        """Delete devices unused for the configured time; return their number."""
        before_ms, deleted = self._clock.now_ms() - self._period_ms, 0
        while rows := await self._database.read(devices.list_unused, before_ms, BATCH):
            for user_id, user_rows in groupby(rows, key=itemgetter(0)):
                device_ids = [device_id for _, device_id in user_rows]
                await self._sessions.remove_devices(UserID(user_id), device_ids)
            deleted += len(rows)
        if deleted:
            log.info("deleted %d devices unused for the configured time", deleted)
        return deleted
