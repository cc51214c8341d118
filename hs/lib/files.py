"""Atomic, durable file operations: a file is complete or absent, even after a power failure.

All functions block; call them in a thread.

Rules:

- A file is written under a temporary name, flushed to disk, and renamed to its final name; then the
  folder is flushed, so that the rename is durable as well. New parent folders are too.
- `remove` deletes folders that it leaves empty, which races with a file being installed there. So
  creating the folder and placing the file is retried together.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

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


def _act_in(folder: Path, act: Callable[[], T]) -> tuple[list[Path], T]:
    """Create a folder and run `act` in it; return the parents of new folders, and act's result.

    While the folder is empty, `remove` may delete it; then both steps are repeated.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _make_folders(folder), act()
        except (FileNotFoundError, FileExistsError):
            continue
    return _make_folders(folder), act()


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; return the parents of those that were new."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return [path.parent for path in missing]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
