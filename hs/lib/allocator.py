"""The C library's allocator, told to give memory back that is needed only at times.

Large answers and the caches of SQLite come and go in several threads. By default glibc has a pool
for each thread, and keeps pieces of up to 32 MB in them. Nor may too little be kept: reading a
request of 40 kB as JSON takes half a megabyte for a moment, and memory that comes fresh from the
system each time, page by page, costs more than the reading.
"""

import ctypes
from typing import Final

# From <malloc.h>.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

POOLS: Final = 2
KEPT_BYTES: Final = 1024 * 1024
"""Larger pieces go straight back, and no more than this stays at the end of a pool."""


def give_memory_back() -> bool:
    """Set it for the rest of the process, before threads start; False: not this C library."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = ((_ARENA_MAX, POOLS), (_MMAP_THRESHOLD, KEPT_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES))
    done = [mallopt(option, value) == 1 for option, value in options]
    return all(done)
