"""The file that tells service managers the number of the process, and the limit of open files."""

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENOUGH = 65536  # where the system sets no limit

log = logging.getLogger(__name__)


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keep a file with the number of this process while the block runs. Raises: OSError."""
    if path is None:
        yield
        return
    path.write_text(f"{os.getpid()}\n", "ascii")
    try:
        yield
    finally:
        _remove_own(path)


def _remove_own(path: Path) -> None:
    try:
        # A process that came after may have written its own number by now.
        if path.read_text("ascii").strip() == str(os.getpid()):
            path.unlink()
    except (OSError, ValueError) as error:
        log.warning("cannot remove the file %s: %s", path, error)


def limit_open_files(soft_limit: int) -> None:
    """Set how many files and connections the process may have open; 0 asks for all it may have."""
    present, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard_limit if hard_limit != resource.RLIM_INFINITY else max(present, _ENOUGH)
    if soft_limit > most:
        log.warning("soft_file_limit: the system allows no more than %d", most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft_limit or most, most), hard_limit))
