"""The vocabulary in which streams are declared; the streams themselves are in hs.core.streams."""

import enum
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import attrs

R = TypeVar("R")


class StreamKind(enum.Enum):
    """Where the rows of a stream are stored."""

    TABLE = "table"  # in the database, so no row is ever lost
    MEMORY = "memory"  # in the writer's memory; a restart of the writer begins a new epoch


class StreamWriters(enum.Enum):
    """Which processes write a stream."""

    MAIN = "main"  # the main process
    ONE = "one"  # the process that `stream_writers` of the settings names, or main
    FIRST = "first"  # as ONE; the first one if `stream_writers` names several
    SHARDED = "sharded"  # all that `stream_writers` names, or main; each key has one owner
    EVERY = "every"  # every process, each about itself
    ANY = "any"  # any process; the database puts the commits of all of them in one order


ANY_PROCESS: Final = "*"
"""The name of the writer of a stream that any process may write."""


class WakeRule(enum.Enum):
    """How rows wake long polls, where that is more than a list of users and rooms.

    The notifier has one method for each rule.
    """

    ROOM_MEMBERS = "the members of the room, and users whose membership changed"
    SHARED_ROOMS = "the users who share a room with the user, together with later rows"
    DEVICE_TRACKERS = "the user, and the users who share a room unless only signatures changed"
    PROFILE_FOLLOWERS = "the user, and the users who share a room, if a client follows profiles"
    DEVICE_OWNERS = "the owners of the devices, unless only their key counts changed"


def unchanged(row: Any) -> Any:
    """Return the row, all of which belongs in the log of commits."""
    return row


@attrs.frozen(eq=False)
class StreamDef(Generic[R]):
    """The declaration of one stream.

    `row` is the class of its rows. `written_with` is the name of another stream that has the same
    writers; `stream_writers` of the settings names only that one.

    A row wakes the long polls of the users that `wakes_users` returns and of the members of the
    rooms that `wakes_rooms` returns, or those that `wake_rule` describes.

    Table streams: `slim` removes from a row what readers can load from the tables, before the row
    is added to the log of commits from which other processes fill gaps. Memory streams: `recent`
    is the number of rows that the writer remembers for the same purpose; with a `key`, it
    remembers only the latest row of each key. If several processes write the stream, `owner_key`
    returns the key whose owner writes a row: rows of a process that has lost the key are ignored.

    If the stream `is_awaited`, a call of its writer returns only once the caller has the rows that
    the writer had written. Set it to False if no answer depends on the rows.

    `is_plain` returns whether a row changes nothing in the memory of a process that answers no
    requests and has no duties. Subscribers may do without such rows; see hs.repl.feed.
    """

    name: str
    row: type[R]
    kind: StreamKind
    writers: StreamWriters = StreamWriters.MAIN
    written_with: str | None = None
    wakes_users: Callable[[R], Iterable[str]] | None = None
    wakes_rooms: Callable[[R], Iterable[str]] | None = None
    wake_rule: WakeRule | None = None
    slim: Callable[[R], R] = unchanged
    recent: int = 1000
    key: Callable[[R], Hashable] | None = None
    is_plain: Callable[[R], bool] | None = None
    owner_key: Callable[[R], str] | None = None
    is_awaited: bool = True

    @property
    def writer_setting(self) -> str | None:
        """The key in `stream_writers` that names the writers; None if they cannot be chosen."""
        if self.writers in (StreamWriters.MAIN, StreamWriters.EVERY, StreamWriters.ANY):
            return None
        return self.written_with or self.name
