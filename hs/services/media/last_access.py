"""When media were last accessed, buffered in memory and stored in batches, for retention."""

import attrs
import trio

from hs.lib.clock import Clock
from hs.storage.database import Database
from hs.storage.media import media
from hs.storage.media.media import Media

WRITE_EVERY_S = 60.0
LAST_WRITE_S = 5.0
MAX_WAITING = 50_000  # addresses; further accesses are not recorded until the next write


@attrs.define(eq=False)
class MediaAccessTimes:
    """The buffer of access times, which `run` stores."""

    _database: Database
    _clock: Clock
    _waiting: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)

    def note(self, used: Media) -> None:
        """Record an access, in memory."""
        key = (used.origin, used.media_id)
        if key in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[key] = self._clock.now_ms()

    async def write(self) -> None:
        """Store the buffered access times."""
        if self._waiting:
            batch = [(*key, used_ms) for key, used_ms in sorted(self._waiting.items())]
            self._waiting = {}
            await self._database.write(media.record_uses, batch)

    async def run(self) -> None:
        """Store access times every minute, and a last time when cancelled."""
        try:
            while True:
                await trio.sleep(WRITE_EVERY_S)
                await self.write()
        finally:
            with trio.move_on_after(LAST_WRITE_S, shield=True):
                await self.write()
