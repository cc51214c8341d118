"""The file that tells service managers the number of the process, and the limit of open files."""

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Set how many files and connections the process may have open; 0 leaves it alone."""
    if soft_limit == 0:
        return
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit != resource.RLIM_INFINITY and soft_limit > hard_limit:
        log.warning("soft_file_limit: the system allows no more than %d", hard_limit)
        soft_limit = hard_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
