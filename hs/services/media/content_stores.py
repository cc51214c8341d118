"""Where the content of media is kept: the folder first, then further places that have copies."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs
import trio

from hs.core.errors import NotFound, Unavailable
from hs.lib import files
from hs.lib.caching.single_flight import SingleFlight
from hs.services.media.media_folder import MediaFolder, MediaFolderFault
from hs.storage.database import Database
from hs.storage.media import media_files

MAX_WAITING = 1000
LEFTOVERS_AT_ONCE = 100

log = logging.getLogger(__name__)


class PlaceFault(Unavailable):
    """A further place does not do what it should; another time it may."""


class ContentStore(Protocol):
    """Keeps files under names; what a name stands for never changes."""

    async def put(self, location: str, source: Path) -> None:
        """Store a copy of a file. Raises: OSError."""
        ...

    async def fetch(self, location: str, target: Path) -> bool:
        """Write the content to a file; False when there is none. Raises: OSError."""
        ...

    async def remove(self, location: str) -> None:
        """Delete the content, if it is there. Raises: OSError."""
        ...


@attrs.frozen(eq=False)
class FolderStore:
    """Another folder."""

    root: Path

    async def put(self, location: str, source: Path) -> None:
        await trio.to_thread.run_sync(files.copy, source, self.root / location)

    async def fetch(self, location: str, target: Path) -> bool:
        try:
            await trio.to_thread.run_sync(files.copy, self.root / location, target)
        except FileNotFoundError:
            return False
        return True

    async def remove(self, location: str) -> None:
        await trio.to_thread.run_sync(files.remove, self.root / location, self.root)


@attrs.frozen(eq=False)
class Place:
    """A further place, and what it gets."""

    store: ContentStore
    takes_local: bool
    takes_remote: bool
    is_waited_for: bool

    def takes(self, is_local: bool) -> bool:
        """Tell whether it gets media of this server, or of others."""
        return self.takes_local if is_local else self.takes_remote


@attrs.define(eq=False)
class Contents:
    """Everything that holds content; `run` copies to further places in the background."""

    folder: MediaFolder
    places: Sequence[Place]
    _database: Database
    _fetching: SingleFlight[str] = attrs.field(factory=SingleFlight, init=False)
    _waiting: list[tuple[str, bool]] = attrs.field(factory=list, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)

    def wants(self, is_local: bool) -> bool:
        """Tell whether some place is to get a copy."""
        return any(place.takes(is_local) for place in self.places)

    async def copy_first(self, location: str, is_local: bool) -> bool:
        """Copy to the places that an upload waits for; tell whether that were all.

        Raises: PlaceFault; the file is gone then.
        """
        taking = [place for place in self.places if place.takes(is_local)]
        try:
            for place in taking:
                if place.is_waited_for:
                    await place.store.put(location, self.folder.path_of(location))
        except OSError as error:
            await self.folder.remove(location)
            raise PlaceFault(f"nothing can be copied to where it must be: {error}") from error
        return all(place.is_waited_for for place in taking)

    def copy_later(self, location: str, is_local: bool) -> None:
        """Have a file copied in the background; what is forgotten here, `copy_leftovers` finds."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((location, is_local))
            self._wake.set()

    async def ensure(self, location: str) -> int:
        """See that a file is in the folder, and give its size. Raises: NotFound, PlaceFault."""
        size = await self.folder.size_of(location)
        if size is None and self.places:
            await self._fetching.run(location, self._fetch, location)
            size = await self.folder.size_of(location)
        if size is None:
            log.error("the file %s is lost", location)
            raise NotFound("The media is not there any more")
        return size

    async def remove(self, location: str) -> None:
        """Delete a file everywhere. Raises: OSError."""
        for place in self.places:
            await place.store.remove(location)
        await self.folder.remove(location)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Copy what is to be copied, until cancelled; ready once the folder was tried."""
        try:
            await self.folder.check()
        except MediaFolderFault as fault:
            log.error("nothing can be uploaded, see media_store_path: %s", fault)
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self._copy(*self._waiting.pop(0))

    async def copy_leftovers(self, own_name: str) -> None:
        """Copy what a lost process or a broken place has left uncopied."""
        if not self.places:
            return
        found = await self._database.read(media_files.uncopied, own_name, LEFTOVERS_AT_ONCE)
        for location, is_local in found:
            await self._copy(location, is_local)

    async def _fetch(self, location: str) -> None:
        fault: OSError | None = None
        for place in self.places:
            try:
                async with self.folder.making(location) as path:
                    if await place.store.fetch(location, path):
                        return
                    raise FileNotFoundError(location)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("a place that has copies of media fails: %s", error)
                fault = error
        if fault is not None:
            raise PlaceFault(f"a place that may have the file fails: {fault}") from fault

    async def _copy(self, location: str, is_local: bool) -> None:
        try:
            for place in self.places:
                if place.takes(is_local):
                    await place.store.put(location, self.folder.path_of(location))
        except FileNotFoundError:
            log.warning("%s is not there to be copied", location)
        except OSError as error:
            log.warning("%s is not copied yet: %s", location, error)
            return
        await self._database.write(media_files.set_copied, location)
