"""Storage of media content: the media folder, and storage providers that receive copies.

Rules:

- The media folder is written first. Synchronous providers must have a copy before the upload
  succeeds; other copies are made in the background.
- The column `is_copied` of a file is set once all its providers have copies. The queue in memory is
  bounded and lost in a crash; `copy_uncopied` finds the rest in the database.
- A file that is missing in the folder is fetched from a provider on demand; concurrent requests
  share the fetch. It appears under its final name only when it is complete.
- The content of a location never changes, so copies never become stale.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs
import trio

from hs.core.errors import NotFound, Unavailable
from hs.lib import files
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.disk_threads import DiskThreads
from hs.services.media.media_folder import MediaFolder, MediaFolderFault
from hs.storage.database import Database
from hs.storage.media import media_files

MAX_WAITING = 1000
COPY_THREADS = 8
COPY_ANSWER_S = 600.0
UNCOPIED_BATCH = 100

log = logging.getLogger(__name__)


class StorageProviderFault(Unavailable):
    """A storage provider failed; the request can be repeated."""


class ContentStore(Protocol):
    """A store of files by location; the content of a location never changes."""

    async def put(self, location: str, source: Path) -> None:
        """Store a copy of a file. Raises: OSError."""
        ...

    async def fetch(self, location: str, target: Path) -> bool:
        """Write the content to a file; return False if there is none. Raises: OSError."""
        ...

    async def remove(self, location: str) -> None:
        """Delete the content, if it exists. Raises: OSError."""
        ...


@attrs.frozen(eq=False)
class FolderStore:
    """A store in another folder, with threads of its own, since its disk may hang."""

    root: Path
    _threads: DiskThreads = attrs.field(
        factory=lambda: DiskThreads(COPY_THREADS, COPY_ANSWER_S), init=False
    )

    async def put(self, location: str, source: Path) -> None:
        await self._threads.run(files.copy, source, self.root / location)

    async def fetch(self, location: str, target: Path) -> bool:
        try:
            await self._threads.run(files.copy, self.root / location, target)
        except FileNotFoundError:
            return False
        return True

    async def remove(self, location: str) -> None:
        await self._threads.run(files.remove, self.root / location, self.root)


@attrs.frozen(eq=False)
class ProviderStore:
    """A storage provider, and the media that it receives."""

    store: ContentStore
    takes_local: bool
    takes_remote: bool
    is_synchronous: bool

    def takes(self, is_local: bool) -> bool:
        """Return whether the provider receives local or remote media."""
        return self.takes_local if is_local else self.takes_remote


@attrs.define(eq=False)
class MediaStorage:
    """The media folder and the storage providers; `run` makes copies in the background."""

    folder: MediaFolder
    providers: Sequence[ProviderStore]
    _database: Database
    _fetching: SingleFlight[str] = attrs.field(factory=SingleFlight, init=False)
    _waiting: list[tuple[str, bool]] = attrs.field(factory=list, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def copy_synchronously(self, location: str, is_local: bool) -> bool:
        """Copy to the synchronous providers; return whether these are all that receive it.

        Raises: StorageProviderFault, after deleting the file from the folder.
        """
        receivers = [provider for provider in self.providers if provider.takes(is_local)]
        try:
            for provider in receivers:
                if provider.is_synchronous:
                    await provider.store.put(location, self.folder.path_of(location))
        except OSError as error:
            await self.folder.remove(location)
            raise StorageProviderFault(
                f"copying to a synchronous storage provider failed: {error}"
            ) from error
        return all(provider.is_synchronous for provider in receivers)

    def schedule_copy(self, location: str, is_local: bool) -> None:
        """Schedule a copy in the background; `copy_uncopied` copies what does not fit the queue."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((location, is_local))
            self._wake.set()

    async def ensure(self, location: str) -> int:
        """Make sure that a file is in the folder; return its size.

        Raises: NotFound, StorageProviderFault.
        """
        size = await self.folder.readable_size_of(location)
        if size is None and self.providers:
            await self._fetching.run(location, self._fetch, location)
            size = await self.folder.readable_size_of(location)
        if size is None:
            log.error(
                "media file %s is missing from the media folder and all storage providers", location
            )
            raise NotFound("The content of the media is missing")
        return size

    async def remove(self, location: str) -> None:
        """Delete a file from the folder and all providers. Raises: OSError."""
        for provider in self.providers:
            await provider.store.remove(location)
        await self.folder.remove(location)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make scheduled copies until cancelled; started once the folder has been checked."""
        try:
            await self.folder.check()
        except MediaFolderFault as fault:
            log.error("uploads will fail, check media_store_path: %s", fault)
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self._copy(*self._waiting.pop(0))

    async def copy_uncopied(self, own_name: str) -> None:
        """Copy files that were not copied because of a crash or a failed provider."""
        if not self.providers:
            return
        uncopied = await self._database.read(media_files.list_uncopied, own_name, UNCOPIED_BATCH)
        for location, is_local in uncopied:
            await self._copy(location, is_local)

    async def _fetch(self, location: str) -> None:
        fault: OSError | None = None
        for provider in self.providers:
            try:
                async with self.folder.creating(location) as path:
                    if await provider.store.fetch(location, path):
                        return
                    raise FileNotFoundError(location)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("fetching media from a storage provider failed: %s", error)
                fault = error
        if fault is not None:
            raise StorageProviderFault(
                f"a storage provider that may have the file failed: {fault}"
            ) from fault

    async def _copy(self, location: str, is_local: bool) -> None:
        try:
            for provider in self.providers:
                if provider.takes(is_local):
                    await provider.store.put(location, self.folder.path_of(location))
        except FileNotFoundError:
            log.warning("media file %s does not exist and cannot be copied", location)
        except OSError as error:
            log.warning(
                "copying media file %s failed, retrying at the next cleanup: %s", location, error
            )
            return
        await self._database.write(media_files.set_copied, location)
