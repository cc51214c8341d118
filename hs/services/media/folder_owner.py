"""Whether the media folder belongs to this database, before files unknown to it are deleted.

The folder and the database both contain the name of the database. To a database that is empty, or
the wrong one, all files of a folder look orphaned; that must not cost the files. A folder without
the name gets it if it is empty, or if this database knows most of its files.
"""

import logging
import secrets

import attrs

from hs.services.media.media_folder import CONTENT, OWNER, MediaFolder
from hs.storage.database import Database
from hs.storage.identity import identity_of
from hs.storage.media import media_files

SAMPLE = 200

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class FolderOwner:
    """The check that the media folder belongs to this database."""

    _database: Database
    _folder: MediaFolder

    async def is_this_database(self) -> bool:
        """Return whether the folder belongs to this database; log why not."""
        identity = await self._database.write(identity_of, secrets.token_hex(16))
        owner = (await self._folder.owner()).strip()
        if not owner and await self._knows_most_files():
            await self._folder.write(f"{identity}\n".encode(), OWNER)
            return True
        if owner != identity:
            log.error(
                "%s does not belong to this database, orphaned media files are not deleted. Check"
                " that `database` and `media_store_path` are right; if they are, write %s to the"
                " file %s",
                self._folder.root,
                identity,
                self._folder.path_of(OWNER),
            )
            return False
        return True

    async def _knows_most_files(self) -> bool:
        sample = await self._folder.some_files(CONTENT, SAMPLE)
        known = [await self._database.read(media_files.exists, location) for location in sample]
        return sum(known) * 2 >= len(sample)
