"""Why a process ended, in one line that an administrator can act on."""

import trio

from hs.repl.generations import WriterReplaced
from hs.repl.intake import FeedLost
from hs.repl.leases import LeaseLost, LeaseTaken, instance_lease
from hs.settings.errors import EXIT_BAD_CONFIG, SettingsError
from hs.storage.database import DatabaseError, ForeignDatabase

EXIT_FAILED = 1


class SchemaOutdated(Exception):
    """The database schema is older than this version of the server needs."""


_NOT_BUGS = (
    DatabaseError,
    LeaseLost,
    LeaseTaken,
    FeedLost,
    WriterReplaced,
    SettingsError,
    SchemaOutdated,
    OSError,
)


def cause_of(error: BaseException) -> tuple[str, bool]:
    """Return the cause of an exit, and whether it is a bug of the server."""
    leaf = first_leaf(error)
    if isinstance(leaf, OSError) and leaf.strerror:
        place = f": {leaf.filename}" if leaf.filename else ""
        return f"{leaf.strerror}{place}", False
    if isinstance(leaf, LeaseTaken) and leaf.name.startswith(instance_lease("")):
        message = f"another process runs under this name ({leaf.holder})"
        return f"{message}: stop it, or give each process its own worker_name", False
    is_bug = not isinstance(leaf, _NOT_BUGS)
    text = str(leaf)
    if is_bug:
        text = f"{type(leaf).__name__}: {text}" if text else type(leaf).__name__
    return text or type(leaf).__name__, is_bug


def exit_status_of(error: BaseException) -> int:
    """Return the exit status: 2 for mistakes in the configuration, which no restart repairs."""
    is_mistake = isinstance(first_leaf(error), SettingsError | ForeignDatabase)
    return EXIT_BAD_CONFIG if is_mistake else EXIT_FAILED


def first_leaf(error: BaseException) -> BaseException:
    """Return the exception that made the others of a group fail."""
    while isinstance(error, BaseExceptionGroup):
        # Other tasks were cancelled because of the failure; they are not its cause.
        failures = [leaf for leaf in error.exceptions if not isinstance(leaf, trio.Cancelled)]
        error = (failures or list(error.exceptions))[0]
    return error
