"""When media were last asked for, noted in memory and written in batches; retention goes by it."""

import attrs
import trio

from hs.lib.clock import Clock
from hs.storage.database import Database
from hs.storage.media import media
from hs.storage.media.media import Media

WRITE_EVERY_S = 60.0
LAST_WRITE_S = 5.0
MAX_WAITING = 50_000  # addresses; more are not noted until the next write


@attrs.define(eq=False)
class MediaUses:
    """Collects uses; `run` writes them."""

    _database: Database
    _clock: Clock
    _waiting: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)

    def note(self, used: Media) -> None:
        """Note that somebody asked for an address; costs next to nothing."""
        key = (used.origin, used.media_id)
        if key in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[key] = self._clock.now_ms()

    async def write(self) -> None:
        """Write what was noted."""
        if self._waiting:
            batch = [(*key, used_ms) for key, used_ms in sorted(self._waiting.items())]
            self._waiting = {}
            await self._database.write(media.note_used, batch)

    async def run(self) -> None:
        """Write once a minute; a last time when cancelled."""
        try:
            while True:
                await trio.sleep(WRITE_EVERY_S)
                await self.write()
        finally:
            with trio.move_on_after(LAST_WRITE_S, shield=True):
                await self.write()
