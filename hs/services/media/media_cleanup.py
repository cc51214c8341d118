"""What one process does about media now and then: retention, expiry, removal, lost files."""

import logging
from typing import Final

import attrs

from hs.core.ids import ServerName
from hs.lib.clock import Clock
from hs.services.media.content_stores import Contents
from hs.services.media.media_folder import CONTENT, TEMPORARY, THUMBNAILS
from hs.services.media.repository import MediaRepository
from hs.settings.sections.media import Retention
from hs.storage.database import Database
from hs.storage.media import media, media_files

UPKEEP_PERIOD_S: Final = 3600.0
AT_ONCE: Final = 500
# What is being stored right now belongs to nobody yet.
GRACE_MS: Final = 3600 * 1000
LOST_AFTER_S: Final = 24 * 3600.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class MediaUpkeep:
    """Tidies up; each step may be cut short and is done again the next time."""

    _database: Database
    _clock: Clock
    _contents: Contents
    _repository: MediaRepository
    _server_name: ServerName
    _retention: Retention

    async def tidy(self) -> None:
        """Do all of it."""
        expired = await self._database.write(media.expire, self._clock.now_ms())
        if expired:
            log.info("%d announced addresses expired", expired)
        await self.forget_unused()
        await self.remove_orphans()
        await self._contents.copy_leftovers(self._server_name)
        await self.remove_lost_files()

    async def forget_unused(self) -> None:
        """Delete the addresses that retention is over for."""
        now_ms, kept = self._clock.now_ms(), self._retention
        own = self._server_name
        for lifetime_ms, unused in (
            (kept.local_media_lifetime, media.unused_local),
            (kept.remote_media_lifetime, media.unused_remote),
        ):
            if lifetime_ms is None:
                continue
            before_ms = now_ms - lifetime_ms
            while found := await self._database.read(unused, own, before_ms, AT_ONCE):
                for origin, media_id in found:
                    await self._repository.delete(ServerName(origin), media_id)
                log.info("retention deleted %d media", len(found))

    async def remove_orphans(self) -> None:
        """Remove the files that no address stands for any more, and their thumbnails."""
        before_ms = self._clock.now_ms() - GRACE_MS
        broken: set[str] = set()
        while True:
            found = await self._database.read(media_files.orphans, before_ms, AT_ONCE)
            waiting = [location for location in found if location not in broken]
            if not waiting:
                return
            for location in waiting:
                if not await self._remove(location, before_ms):
                    broken.add(location)

    async def remove_lost_files(self) -> None:
        """Remove what a crash left on the disk without a row that tells of it."""
        folder = self._contents.folder
        for location in await folder.stale(TEMPORARY, LOST_AFTER_S):
            await folder.remove(location)
        for location in await folder.stale(CONTENT, LOST_AFTER_S):
            if not await self._database.read(media_files.exists, location):
                log.info("removing %s, which nothing tells of", location)
                await folder.remove(location)
        for location in await folder.stale(THUMBNAILS, LOST_AFTER_S):
            of_file = location.removeprefix(f"{THUMBNAILS}/").rpartition("/")[0]
            if not await self._database.read(media_files.exists, of_file):
                await folder.remove(location)

    async def _remove(self, location: str, before_ms: int) -> bool:
        if not await self._database.write(media_files.condemn, location, before_ms):
            return False
        for thumbnail in await self._database.read(media_files.thumbnails_of, location):
            await self._contents.folder.remove(thumbnail)
        try:
            await self._contents.remove(location)
        except OSError as error:
            log.warning("%s is not removed yet: %s", location, error)
            return False
        await self._database.write(media_files.delete_file, location)
        return True
