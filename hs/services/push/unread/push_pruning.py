"""The chore that forgets what old events did: what all have read after a month, all after a year.

Counts stay exact for who has read within a year; the list of notifications goes back a month, or
as far as somebody in the room has not read.
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
PERIOD_S: Final = 6 * 3600.0
ROOMS_AT_ONCE: Final = 100
REST_S: Final = 0.02
"""Between rooms: nobody waits for this."""


@attrs.frozen(eq=False)
class PushPruning:
    """Forgets, in one process."""

    _database: Database
    _clock: Clock

    async def prune(self) -> None:
        """Note the day, and forget what is old enough."""
        today = self._clock.now_ms() // DAY_MS
        await self._database.write(storage.note_day, today)
        upto = await self._database.read(storage.last_of, today - KEPT_DAYS - 1)
        if upto is not None:
            await self._forget_read(upto)
        upto = await self._database.read(storage.last_of, today - LONGEST_DAYS - 1)
        if upto is not None:
            await self._database.write(storage.forget_all, upto)
        await self._database.write(storage.forget_days, today - LONGEST_DAYS - KEPT_DAYS)

    async def _forget_read(self, upto: int) -> None:
        after = ""
        while True:
            rooms = await self._database.read(storage.rooms_with_old, after, upto, ROOMS_AT_ONCE)
            for room_id in rooms:
                await self._database.write(storage.forget_read, room_id, upto)
                await trio.sleep(REST_S)
            if len(rooms) < ROOMS_AT_ONCE:
                return
            after = rooms[-1]
