"""Deletion of the results of old events that no unread count needs any more."""

from collections.abc import Mapping, Sequence
from typing import Final

from hs.storage.database import Tx
from hs.storage.dialect import sql

RECORD_DAY = """
INSERT INTO push_days (day, stream_id) SELECT $1, coalesce(max(stream_id), 0) FROM events WHERE true
ON CONFLICT (day) DO UPDATE SET stream_id = excluded.stream_id
"""
LAST_STREAM_ID = "SELECT max(stream_id) FROM push_days WHERE day <= $1"
DELETE_DAYS = "DELETE FROM push_days WHERE day < $1"
ROOMS_WITH_OUTCOMES = """
SELECT DISTINCT room_id FROM push_outcomes
WHERE room_id > $1 AND stream_id <= $2 ORDER BY room_id LIMIT $3
"""
MEMBERS = "SELECT user_id FROM local_memberships WHERE room_id = $1 AND membership = 'join'"
RECEIPTS = """
SELECT user_id, thread_id, max(event_stream_id) FROM receipts
WHERE room_id = $1 AND event_stream_id IS NOT NULL GROUP BY user_id, thread_id
"""
MARKS = """
SELECT m.user_id, m.thread_id, m.stream_id FROM local_memberships l
JOIN push_marks m ON m.user_id = l.user_id AND m.room_id = l.room_id
WHERE l.room_id = $1 AND l.membership = 'join'
"""
THREADS = """
SELECT DISTINCT thread_id FROM push_outcomes WHERE room_id = $1 AND stream_id <= $2
"""
EXCEPTION_THREADS = sql(
    lambda d: (
        f"SELECT DISTINCT thread_id FROM push_exceptions WHERE {d.any_of('user_id', 1, 'text')} "
        "AND room_id = $2 AND stream_id <= $3"
    )
)
DELETE_OUTCOMES = (
    "DELETE FROM push_outcomes WHERE room_id = $1 AND thread_id = $2 AND stream_id <= $3"
)
DELETE_EXCEPTIONS = sql(
    lambda d: (
        f"DELETE FROM push_exceptions WHERE {d.any_of('user_id', 1, 'text')} "
        "AND room_id = $2 AND thread_id = $3 AND stream_id <= $4"
    )
)
DELETE_ALL_OUTCOMES = "DELETE FROM push_outcomes WHERE stream_id <= $1"
DELETE_ALL_EXCEPTIONS = "DELETE FROM push_exceptions WHERE stream_id <= $1"
_WHOLE_ROOM: Final = ""


async def record_day(tx: Tx, day: int) -> None:
    """Record the latest stream ID as of a day; later records of the same day replace it."""
    await tx.execute(RECORD_DAY, day)


async def last_stream_id(tx: Tx, day: int) -> int | None:
    """Return a stream ID that no event of the day or before exceeds; None if it is unknown."""
    stream_id: int | None = await tx.fetchval(LAST_STREAM_ID, day)
    return stream_id


async def rooms_with_outcomes(tx: Tx, after: str, upto: int, limit: int) -> list[str]:
    """List rooms above a room ID, in order, that have outcomes up to a stream ID."""
    return [row[0] for row in await tx.fetch(ROOMS_WITH_OUTCOMES, after, upto, limit)]


async def delete_read(tx: Tx, room_id: str, upto: int) -> None:
    """Delete the results in a room, up to a stream ID, that all local members have read."""
    members = [row[0] for row in await tx.fetch(MEMBERS, room_id)]
    read: dict[str, dict[str, int]] = {}
    rows = [*await tx.fetch(RECEIPTS, room_id), *await tx.fetch(MARKS, room_id)]
    for user_id, thread_id, stream_id in [(row[0], row[1], row[2]) for row in rows]:
        read_threads = read.setdefault(user_id, {})
        read_threads[thread_id] = max(stream_id, read_threads.get(thread_id, stream_id))
    threads = [
        *await tx.fetch(THREADS, room_id, upto),
        *await tx.fetch(EXCEPTION_THREADS, members, room_id, upto),
    ]
    for thread_id in {row[0] for row in threads}:
        read_upto = min(upto, _read_by_all(members, read, thread_id, upto))
        await tx.execute(DELETE_OUTCOMES, room_id, thread_id, read_upto)
        await tx.execute(DELETE_EXCEPTIONS, members, room_id, thread_id, read_upto)


async def delete_all(tx: Tx, upto: int) -> None:
    """Delete all results up to a stream ID, including those of unread events."""
    await tx.execute(DELETE_ALL_OUTCOMES, upto)
    await tx.execute(DELETE_ALL_EXCEPTIONS, upto)


async def delete_days(tx: Tx, before: int) -> None:
    """Delete the records of earlier days."""
    await tx.execute(DELETE_DAYS, before)


def _read_by_all(
    members: Sequence[str], read: Mapping[str, Mapping[str, int]], thread_id: str, upto: int
) -> int:
    """Return the stream ID up to which every member has read a thread."""
    if not members:
        return upto
    return min(
        max(threads.get(_WHOLE_ROOM, 0), threads.get(thread_id, 0))
        for threads in (read.get(user_id, {}) for user_id in members)
    )
