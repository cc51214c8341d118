"""Deletion of the results of old events: of read ones after a month, of all after a year.

Counts stay exact for users who have read within a year. The list of notifications goes back a
month, and further as far as a local member of the room has not read.
"""

from typing import Final

import attrs
import trio

from hs.lib.clock import Clock
from hs.storage.database import Database
from hs.storage.push import push_pruning as storage

DAY_MS: Final = 24 * 3600 * 1000
KEPT_DAYS: Final = 30
LONGEST_DAYS: Final = 365
CLEANUP_PERIOD_S: Final = 6 * 3600.0
ROOMS_AT_ONCE: Final = 100
PAUSE_S: Final = 0.02
"""Between rooms, as other work is more urgent."""


@attrs.frozen(eq=False)
class NotificationCleanup:
    """Deletes old results, in one process."""

    _database: Database
    _clock: Clock

    async def clean_up(self) -> None:
        """Record the day, and delete the results that are old enough."""
        today = self._clock.now_ms() // DAY_MS
        await self._database.write(storage.record_day, today)
        upto = await self._database.read(storage.last_stream_id, today - KEPT_DAYS - 1)
        if upto is not None:
            await self._delete_read(upto)
        upto = await self._database.read(storage.last_stream_id, today - LONGEST_DAYS - 1)
        if upto is not None:
            await self._database.write(storage.delete_all, upto)
        await self._database.write(storage.delete_days, today - LONGEST_DAYS - KEPT_DAYS)

    async def _delete_read(self, upto: int) -> None:
        after = ""
        while True:
            rooms = await self._database.read(
                storage.rooms_with_outcomes, after, upto, ROOMS_AT_ONCE
            )
            for room_id in rooms:
                await self._database.write(storage.delete_read, room_id, upto)
                await trio.sleep(PAUSE_S)
            if len(rooms) < ROOMS_AT_ONCE:
                return
            after = rooms[-1]
