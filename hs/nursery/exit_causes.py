"""Why a process ended, in one line that an administrator can act on."""

import trio

from hs.repl.intake import FeedLost
from hs.repl.leases import LeaseLost, LeaseTaken, instance_lease
from hs.repl.writers import WriterReplaced
from hs.settings.errors import SettingsError
from hs.storage.database import DatabaseError


class SchemaBehind(Exception):
    """The database lacks what this version of the server needs."""


_NOT_OURS = (
    DatabaseError,
    LeaseLost,
    LeaseTaken,
    FeedLost,
    WriterReplaced,
    SettingsError,
    SchemaBehind,
    OSError,
)


def cause_of(error: BaseException) -> tuple[str, bool]:
    """Give the cause, and whether it is a fault of the server's own code."""
    leaf = _first_leaf(error)
    if isinstance(leaf, OSError) and leaf.strerror:
        place = f": {leaf.filename}" if leaf.filename else ""
        return f"{leaf.strerror}{place}", False
    if isinstance(leaf, LeaseTaken) and leaf.name.startswith(instance_lease("")):
        told = f"another process runs under this name ({leaf.holder})"
        return f"{told}: stop it, or give each its own worker_name", False
    is_ours = not isinstance(leaf, _NOT_OURS)
    text = str(leaf)
    if is_ours:
        text = f"{type(leaf).__name__}: {text}" if text else type(leaf).__name__
    return text or type(leaf).__name__, is_ours


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        # A cancellation beside the fault is only its consequence.
        plain = [one for one in error.exceptions if not isinstance(one, trio.Cancelled)]
        error = (plain or list(error.exceptions))[0]
    return error
