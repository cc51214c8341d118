"""The PID file for service managers, and the limit on open files."""

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hs.lib.files import open_new

_ENOUGH = 65536  # where the system sets no limit

log = logging.getLogger(__name__)


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Write this process's PID to a file, and remove it after the block. Raises: OSError."""
    if path is None:
        yield
        return
    path.unlink(missing_ok=True)
    with open(open_new(path), "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    try:
        yield
    finally:
        _remove_own(path)


def _remove_own(path: Path) -> None:
    try:
        # A process that started meanwhile may have written its own PID.
        if path.read_text("ascii").strip() == str(os.getpid()):
            path.unlink()
    except (OSError, ValueError) as error:
        log.warning("could not remove the PID file %s: %s", path, error)


def open_file_limit() -> int:
    """Return how many files and connections the process may open at present."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft_limit if soft_limit != resource.RLIM_INFINITY else _ENOUGH


def limit_open_files(soft_limit: int) -> None:
    """Limit the files and connections that the process may open; 0 means the hard limit."""
    current, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    maximum = hard_limit if hard_limit != resource.RLIM_INFINITY else max(current, _ENOUGH)
    if soft_limit > maximum:
        log.warning("soft_file_limit exceeds the system's hard limit, using %d", maximum)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft_limit or maximum, maximum), hard_limit))
