"""Why a process ended, in one line that an administrator can act on."""

import trio

from hs.repl.intake import FeedLost
from hs.repl.leases import LeaseLost, LeaseTaken
from hs.settings.errors import SettingsError
from hs.storage.database import DatabaseError

_OURS = (DatabaseError, LeaseLost, LeaseTaken, FeedLost, SettingsError, OSError)


def cause_of(error: BaseException) -> tuple[str, bool]:
    """Give the cause, and whether it is a fault of the server's own code."""
    leaf = _first_leaf(error)
    if isinstance(leaf, trio.TooSlowError):
        return "the schema was not brought up to date in time; is the main process running?", False
    if isinstance(leaf, OSError) and leaf.strerror:
        place = f" ({leaf.filename})" if leaf.filename else ""
        return f"{leaf.strerror}{place}", False
    return str(leaf) or type(leaf).__name__, not isinstance(leaf, _OURS)


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        # A cancellation beside the fault is only its consequence.
        plain = [one for one in error.exceptions if not isinstance(one, trio.Cancelled)]
        error = (plain or list(error.exceptions))[0]
    return error
