"""The cleanup of media, in one process: retention, expiry, orphaned and lost files.

A file is deleted in three steps, each of which can be repeated after a crash: a transaction marks
the file as being removed, if no address refers to it and none has claimed it within GRACE_MS; the
file and its thumbnails are deleted; the row is deleted. Marked files are not used for new uploads.
"""

import logging
from typing import Final

import attrs

from hs.core.ids import ServerName
from hs.lib.clock import Clock
from hs.services.media.content_stores import MediaStorage
from hs.services.media.folder_owner import FolderOwner
from hs.services.media.media_folder import CONTENT, TEMPORARY, THUMBNAILS
from hs.services.media.repository import MediaRepository
from hs.settings.sections.media import MediaRetentionSettings
from hs.storage.database import Database
from hs.storage.media import media, media_files

CLEANUP_PERIOD_S: Final = 3600.0
BATCH: Final = 500
# A file that is being stored has no address yet.
GRACE_MS: Final = 3600 * 1000
LOST_AFTER_S: Final = 24 * 3600.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class MediaCleanup:
    """The cleanup; an interrupted step is repeated by the next run."""

    _database: Database
    _clock: Clock
    _contents: MediaStorage
    _owner: FolderOwner
    _repository: MediaRepository
    _server_name: ServerName
    _retention: MediaRetentionSettings

    async def clean_up(self) -> None:
        """Run all steps."""
        expired = await self._database.write(media.delete_expired, self._clock.now_ms())
        if expired:
            log.info("deleted %d expired media IDs without content", expired)
        await self.apply_retention()
        await self.remove_orphans()
        await self._contents.copy_uncopied(self._server_name)
        await self.remove_lost_files()

    async def apply_retention(self) -> None:
        """Delete the addresses that have not been accessed within the retention time."""
        now_ms, retention = self._clock.now_ms(), self._retention
        for lifetime_ms, unused in (
            (retention.local_media_lifetime, media.list_unused_local),
            (retention.remote_media_lifetime, media.list_unused_remote),
        ):
            if lifetime_ms is None:
                continue
            before_ms = now_ms - lifetime_ms
            while addresses := await self._database.read(
                unused, self._server_name, before_ms, BATCH
            ):
                for origin, media_id in addresses:
                    await self._repository.delete(ServerName(origin), media_id)
                log.info("retention deleted %d media", len(addresses))

    async def remove_orphans(self) -> None:
        """Delete the files that no address refers to, and their thumbnails."""
        before_ms = self._clock.now_ms() - GRACE_MS
        failed: set[str] = set()
        while True:
            orphans = await self._database.read(media_files.list_orphans, before_ms, BATCH)
            remaining = [location for location in orphans if location not in failed]
            if not remaining:
                return
            for location in remaining:
                if not await self._remove(location, before_ms):
                    failed.add(location)

    async def remove_lost_files(self) -> None:
        """Delete files that a crash has left on disk without a row in the database."""
        folder = self._contents.folder
        for location in await folder.older_than(TEMPORARY, LOST_AFTER_S):
            await folder.remove(location)
        if not await self._owner.is_this_database():
            return
        for location in await folder.older_than(CONTENT, LOST_AFTER_S):
            if not await self._database.read(media_files.exists, location):
                log.info("deleting orphaned media file %s", location)
                await folder.remove(location)
        for location in await folder.older_than(THUMBNAILS, LOST_AFTER_S):
            original = location.removeprefix(f"{THUMBNAILS}/").rpartition("/")[0]
            if not await self._database.read(media_files.exists, original):
                await folder.remove(location)

    async def _remove(self, location: str, before_ms: int) -> bool:
        if not await self._database.write(media_files.mark_for_removal, location, before_ms):
            return False
        for thumbnail in await self._database.read(media_files.thumbnail_locations, location):
            await self._contents.folder.remove(thumbnail)
        try:
            await self._contents.remove(location)
        except OSError as error:
            log.warning(
                "could not delete media file %s, retrying at the next cleanup: %s", location, error
            )
            return False
        await self._database.write(media_files.delete_file, location)
        return True
