"""Files that are whole or not there at all, even after a power cut. Everything here blocks."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_ATTEMPTS: Final = 10


def install(source: Path, target: Path) -> None:
    """Move a file to its place, which is on the same file system, and see it to the disk."""
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    made, _ = _act_in(target.parent, lambda: os.replace(source, target))
    for folder in (target.parent, *made):
        _sync_folder(folder)


def copy(source: Path, target: Path) -> None:
    """Copy a file to its place; what is there before it is whole has another name."""
    folder = target.parent
    _, (descriptor, name) = _act_in(folder, lambda: tempfile.mkstemp(prefix=".copy-", dir=folder))
    try:
        with open(source, "rb") as read, os.fdopen(descriptor, "wb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
        install(Path(name), target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove(path: Path, root: Path) -> None:
    """Delete a file if it is there, and the folders under `root` that it leaves empty."""
    path.unlink(missing_ok=True)
    folder = path.parent
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _act_in(folder: Path, act: Callable[[], T]) -> tuple[list[Path], T]:
    """Make a folder and put something into it; give the parents of the new ones as well.

    As long as it is empty, whoever removes a file that was in it may take it away.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _make_folders(folder), act()
        except (FileNotFoundError, FileExistsError):
            continue
    return _make_folders(folder), act()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; give the parents of the new ones."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return [one.parent for one in missing]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
