"""Deletes devices that were not used for long, with their sessions; one process does."""

import logging
from itertools import groupby
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
class StaleDevices:
    """Finds and deletes them; devices of application services stay."""

    _database: Database
    _clock: Clock
    _sessions: Sessions
    _period_ms: int

    async def delete(self) -> int:
        """Delete devices unused for the period; give how many."""
        before_ms, gone = self._clock.now_ms() - self._period_ms, 0
        while found := await self._database.read(devices.unused, before_ms, BATCH):
            for user_id, owned in groupby(found, key=lambda one: one[0]):
                await self._sessions.remove_devices(UserID(user_id), [one[1] for one in owned])
            gone += len(found)
        if gone:
            log.info("%d devices that were not used for long are gone", gone)
        return gone
