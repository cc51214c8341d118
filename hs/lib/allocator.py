"""Settings of the C library's allocator that limit the free memory it retains.

Large responses and SQLite's caches are allocated now and then in several threads. By default glibc
has an arena per thread and retains blocks of up to 32 MB in each. Retaining too little is no good
either: parsing a 40 kB request as JSON takes half a megabyte for a moment, and getting that from
the kernel each time, page by page, costs more than the parsing.
"""

import ctypes
from typing import Final

# From <malloc.h>.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

ARENAS: Final = 2
RETAINED_BYTES: Final = 1024 * 1024
"""Larger blocks are returned to the kernel when freed; at most this stays free in an arena."""


def give_memory_back() -> bool:
    """Limit the retained memory for the rest of the process; call it before threads start.

    Return False if the C library is not glibc or rejects a value.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = (
        (_ARENA_MAX, ARENAS),
        (_MMAP_THRESHOLD, RETAINED_BYTES),
        (_TRIM_THRESHOLD, RETAINED_BYTES),
    )
    done = [mallopt(option, value) == 1 for option, value in options]
    return all(done)
