"""Atomic, durable file operations: a file is complete or absent, even after a power failure.

All functions block; call them in a thread.

Rules:

- A file is written under a temporary name, flushed to disk, and renamed to its final name; then the
  folder is flushed, so that the rename is durable as well. New parent folders are too.
- `remove` deletes folders that it leaves empty, which races with a file being installed there. So
  creating the folder and placing the file is retried together.
- Files and folders are created for their owner only, whatever the umask.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

OWNER_FILE: Final = 0o600
OWNER_FOLDER: Final = 0o700
_ATTEMPTS: Final = 10


def install(source: Path, target: Path) -> None:
    """Move a file durably to `target`, which must be on the same file system."""
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    new_parents, _ = _act_in(target.parent, lambda: os.replace(source, target))
    for folder in (target.parent, *new_parents):
        _sync_folder(folder)


def copy(source: Path, target: Path) -> None:
    """Copy a file durably to `target`; until it is complete it has a temporary name."""
    folder = target.parent
    _, (descriptor, name) = _act_in(folder, lambda: tempfile.mkstemp(prefix=".copy-", dir=folder))
    try:
        with open(source, "rb") as original, os.fdopen(descriptor, "wb") as duplicate:
            shutil.copyfileobj(original, duplicate, 1 << 20)
        install(Path(name), target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove(path: Path, root: Path) -> None:
    """Delete a file, if it exists, and the folders under `root` that become empty."""
    path.unlink(missing_ok=True)
    folder = path.parent
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; return the parents of those that were new.

    Raises: OSError.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir(OWNER_FOLDER)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            path.chmod(OWNER_FOLDER)
    return [path.parent for path in missing]


def open_new(path: Path) -> int:
    """Create a file that only its owner may use; return its descriptor, open for writing.

    Raises: FileExistsError, OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_FILE)
    os.fchmod(descriptor, OWNER_FILE)
    return descriptor


def _act_in(folder: Path, act: Callable[[], T]) -> tuple[list[Path], T]:
    """Create a folder and run `act` in it; return the parents of new folders, and act's result.

    While the folder is empty, `remove` may delete it; then both steps are repeated.
    """
    for _ in range(_ATTEMPTS):
        try:
            return make_folders(folder), act()
        except (FileNotFoundError, FileExistsError):
            continue
    return make_folders(folder), act()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
