"""Whether the program on disk is still the one that this process has imported."""

import sys
from pathlib import Path

import hs


def installed_program() -> frozenset[tuple[str, int]]:
    """Return what differs after an upgrade of the program, or of a package that it uses.

    These are the times of its files, and of the directories that packages are installed in.
    """
    package = Path(hs.__file__).parent
    files = (path for path in package.rglob("*") if "__pycache__" not in path.parts)
    folders = (Path(name) for name in sys.path if name)
    return frozenset(
        (str(path), path.stat().st_mtime_ns) for path in (*files, *folders) if path.exists()
    )
