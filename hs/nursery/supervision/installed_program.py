"""Whether the program on disk is still the one that this process has imported."""

import os
import sys
from pathlib import Path

import hs


def installed_program() -> frozenset[tuple[str, int]]:
    """Return what differs after an upgrade of the program, or of a package that it uses.

    These are the times of its files, and of the directories that packages are installed in.
    """
    package = Path(hs.__file__).parent
    files = (
        os.path.join(folder, name)
        for folder, _, names in os.walk(package)
        if not folder.endswith("__pycache__")
        for name in names
    )
    folders = (name for name in sys.path if name)
    return frozenset((path, _mtime_ns(path)) for path in (*files, *folders))


def _mtime_ns(path: str) -> int:
    """Return when a file was changed; 0 if it is missing, as some are during an upgrade."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0
