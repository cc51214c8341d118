"""The files of an SQLite database: created for their owner only, watched while they are open."""

import os
from pathlib import Path

from hs.lib.files import open_new


def create_for_owner(path: Path) -> None:
    """Create an empty file that only its owner may use, unless the file exists.

    SQLite gives the write-ahead log and its index the mode of the database file.
    Raises: OSError.
    """
    try:
        os.close(open_new(path))
    except FileExistsError:
        return


class FileWatch:
    """Notices that the file of an open database, or its write-ahead log, was removed or replaced.

    SQLite would continue to write to the removed file, and everything that it writes there is lost
    when the process ends.
    """

    def __init__(self, path: Path) -> None:
        """Watch the files as they are now, with the database open."""
        # The process may change its working directory.
        path = path.absolute()
        paths = (path, path.with_name(f"{path.name}-wal"))
        self._opened = {path: identity for path in paths if (identity := _identity(path))}

    def fault(self) -> str | None:
        """Return what happened to the files, or None."""
        for path, identity in self._opened.items():
            found = _identity(path)
            if found != identity:
                return f"{path} was {'replaced' if found else 'removed'} while it was in use"
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
