"""Whether the folders that this process writes to exist, can be written and have space."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from hs.lib.health import Cause, Probe

DISK: Final = "disk"
FREE_BYTES: Final = 64 * 1024**2
"""Below this, a disk counts as full: an upload, or the log of SQLite, may no longer fit."""

FreeBytes = Callable[[Path], int]


def free_bytes_of(folder: Path) -> int:
    """Return the free space for this user. Raises: OSError."""
    return shutil.disk_usage(folder).free


@attrs.frozen(eq=False)
class FolderProbe:
    """Looks at the folder that the setting `key` names, in a thread: its disk may hang."""

    _key: str
    _folder: Path
    _free_bytes: FreeBytes = free_bytes_of

    @property
    def probe(self) -> Probe:
        """The probe."""
        return Probe(look=self.look, late=self._cause("disk_hung", "does not answer"))

    async def look(self) -> Sequence[Cause]:
        """Return what is wrong with the folder."""
        return await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)

    def _look(self) -> Sequence[Cause]:
        try:
            free = self._free_bytes(self._folder)
        except OSError as error:
            return [self._cause("folder_missing", f"cannot be read: {error.strerror or error}")]
        if not os.access(self._folder, os.W_OK | os.X_OK):
            return [self._cause("folder_unwritable", "cannot be written by this user")]
        if free < FREE_BYTES:
            return [self._cause("disk_full", f"has only {free // 1024**2} MiB of free space")]
        return []

    def _cause(self, code: str, message: str) -> Cause:
        return Cause(
            code=code,
            check=DISK,
            subject=self._key,
            message=f"{self._folder} ({self._key}) {message}",
        )
