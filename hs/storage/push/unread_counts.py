"""Counts of unread notifications, at a cost that does not grow with what is unread.

The newest MAX_COUNTED results of the main timeline and of the threads of a room are counted, each.
Among older ones only highlights are, of which there are few: so a count tells of every mention, and
of MAX_COUNTED other messages. A first statement finds where counting begins.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import Dialect, sql

MAX_COUNTED: Final = 1000

_UNREAD: Final = "room_id text, everywhere bigint, main bigint, upto bigint"
_COUNTED: Final = "room_id text, main bigint, threads bigint, upto bigint"
_OLDER: Final = (
    "room_id text, everywhere bigint, main bigint, main_upto bigint, threads_upto bigint, "
    "upto bigint"
)
_READ: Final = "room_id text, thread_id text, upto bigint"


def _nth(table: str, after: str) -> str:
    """Select the stream ID below the newest MAX_COUNTED results after a position, or that."""
    return (
        f"coalesce((SELECT c.stream_id FROM {table} AND c.room_id = w.room_id "
        f"AND c.stream_id > {after} AND c.stream_id <= w.upto "
        f"ORDER BY c.stream_id DESC LIMIT 1 OFFSET {MAX_COUNTED}), {after})"
    )


_OUTCOMES: Final = "push_outcomes c WHERE true"
_EXCEPTIONS: Final = "push_exceptions c WHERE c.user_id = $1"
_OF_THREADS: Final = "AND c.thread_id <> 'main'"
FLOORS = sql(
    lambda d: (
        "SELECT w.room_id, "
        f"{d.greatest(_nth(_OUTCOMES, 'w.main'), _nth(_EXCEPTIONS, 'w.main'))}, "
        + d.greatest(
            _nth(f"{_OUTCOMES} {_OF_THREADS}", "w.everywhere"),
            _nth(f"{_EXCEPTIONS} {_OF_THREADS}", "w.everywhere"),
        )
        + f" FROM {d.unnest('w', _UNREAD, 2)}"
    )
)


def _main(table: str) -> str:
    return (
        f"SELECT c.room_id, c.thread_id, c.notify, c.highlight FROM w "
        f"JOIN {table} AND c.room_id = w.room_id AND c.stream_id > w.main "
        "AND c.stream_id <= w.upto AND c.thread_id = 'main'"
    )


def _threads(table: str) -> str:
    return (
        f"SELECT c.room_id, c.thread_id, c.notify, c.highlight FROM w "
        f"JOIN {table} AND c.room_id = w.room_id AND c.stream_id > w.threads "
        "AND c.stream_id <= w.upto AND c.thread_id <> 'main' "
        "LEFT JOIN r ON r.room_id = c.room_id AND r.thread_id = c.thread_id "
        "WHERE r.upto IS NULL OR c.stream_id > r.upto"
    )


def _older(table: str) -> str:
    return (
        f"SELECT c.room_id, c.thread_id, c.highlight FROM w "
        f"JOIN {table} AND c.room_id = w.room_id AND c.highlight <> 0 "
        "AND c.stream_id > w.everywhere AND c.stream_id <= w.upto "
        "AND ((c.thread_id = 'main' AND c.stream_id > w.main AND c.stream_id <= w.main_upto) "
        "OR (c.thread_id <> 'main' AND c.stream_id <= w.threads_upto)) "
        "LEFT JOIN r ON r.room_id = c.room_id AND r.thread_id = c.thread_id "
        "WHERE r.upto IS NULL OR c.stream_id > r.upto"
    )


_DEFAULT: Final = "push_outcomes c ON c.sender <> $1"
_DIFFERENCE: Final = "push_exceptions c ON c.user_id = $1"


# MATERIALIZED, as the lists are used several times, and SQLite would read them anew each time.
def _with_lists(d: Dialect, spans: str, number_of_read: int) -> str:
    return (
        f"WITH w AS MATERIALIZED (SELECT * FROM {d.unnest('spans', spans, 2)}), "
        f"r AS MATERIALIZED (SELECT * FROM {d.unnest('threads', _READ, number_of_read)}) "
    )


def _counts(d: Dialect) -> str:
    parts = " UNION ALL ".join(
        (_main(_DEFAULT), _main(_DIFFERENCE), _threads(_DEFAULT), _threads(_DIFFERENCE))
    )
    return (
        f"{_with_lists(d, _COUNTED, 6)} SELECT room_id, thread_id, "
        "CAST(sum(notify) AS bigint), CAST(sum(highlight) AS bigint) "
        f"FROM ({parts}) AS counted GROUP BY room_id, thread_id"
    )


def _older_highlights(d: Dialect) -> str:
    return (
        f"{_with_lists(d, _OLDER, 8)} "
        "SELECT room_id, thread_id, CAST(sum(highlight) AS bigint) "
        f"FROM ({_older(_DEFAULT)} UNION ALL {_older(_DIFFERENCE)}) AS counted "
        "GROUP BY room_id, thread_id"
    )


COUNTS = sql(_counts)
OLDER_HIGHLIGHTS = sql(_older_highlights)


class UnreadSpan(NamedTuple):
    """The unread events of a room: stream IDs up to `upto` that are above what is read.

    `everywhere` is read of the room, `main` (at least as much) of its main timeline.
    """

    room_id: str
    everywhere: int
    main: int
    upto: int


class ReadThread(NamedTuple):
    """A thread of which more is read than of its room."""

    room_id: str
    thread_id: str
    upto: int


class UnreadCount(NamedTuple):
    """The unread notifications and highlights in a thread or the main timeline of a room."""

    room_id: str
    thread_id: str
    notify: int
    highlight: int


async def count_unread(
    tx: Tx, user_id: str, spans: Sequence[UnreadSpan], read: Sequence[ReadThread]
) -> list[UnreadCount]:
    """Count a user's unread notifications by room and thread."""
    threads = [list(column) for column in zip(*read, strict=True)] or [[], [], []]
    floors = {
        row[0]: (row[1], row[2])
        for row in await tx.fetch(FLOORS, user_id, *map(list, zip(*spans, strict=True)))
    }
    counted = [(span.room_id, *floors[span.room_id], span.upto) for span in spans]
    rows = await tx.fetch(COUNTS, user_id, *map(list, zip(*counted, strict=True)), *threads)
    counts = {(row[0], row[1]): UnreadCount(*row) for row in rows}
    older = [
        (span.room_id, span.everywhere, span.main, *floors[span.room_id], max(floors[span.room_id]))
        for span in spans
        if floors[span.room_id] != (span.main, span.everywhere)
    ]
    if older:
        columns = map(list, zip(*older, strict=True))
        for room_id, thread_id, number in await tx.fetch(
            OLDER_HIGHLIGHTS, user_id, *columns, *threads
        ):
            count = counts.get((room_id, thread_id), UnreadCount(room_id, thread_id, 0, 0))
            # Whatever highlights notifies.
            counts[(room_id, thread_id)] = count._replace(
                notify=count.notify + number, highlight=count.highlight + number
            )
    return list(counts.values())
