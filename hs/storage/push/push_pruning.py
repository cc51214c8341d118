"""Forgetting what old events did to users, as far as no count needs it any more."""

from collections.abc import Mapping, Sequence
from typing import Final

from hs.storage.database import Tx
from hs.storage.dialect import sql

NOTE_DAY = """
INSERT INTO push_days (day, stream_id) SELECT $1, coalesce(max(stream_id), 0) FROM events WHERE true
ON CONFLICT (day) DO UPDATE SET stream_id = excluded.stream_id
"""
LAST_OF_DAY = "SELECT max(stream_id) FROM push_days WHERE day <= $1"
FORGET_DAYS = "DELETE FROM push_days WHERE day < $1"
ROOMS = """
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
OWN_THREADS = sql(
    lambda d: (
        f"SELECT DISTINCT thread_id FROM push_exceptions WHERE {d.any_of('user_id', 1, 'text')} "
        "AND room_id = $2 AND stream_id <= $3"
    )
)
FORGET_OUTCOMES = (
    "DELETE FROM push_outcomes WHERE room_id = $1 AND thread_id = $2 AND stream_id <= $3"
)
FORGET_EXCEPTIONS = sql(
    lambda d: (
        f"DELETE FROM push_exceptions WHERE {d.any_of('user_id', 1, 'text')} "
        "AND room_id = $2 AND thread_id = $3 AND stream_id <= $4"
    )
)
FORGET_ALL_OUTCOMES = "DELETE FROM push_outcomes WHERE stream_id <= $1"
FORGET_ALL_EXCEPTIONS = "DELETE FROM push_exceptions WHERE stream_id <= $1"
_EVERYWHERE: Final = ""


async def note_day(tx: Tx, day: int) -> None:
    """Note how far events go on a day; the last note of a day stands."""
    await tx.execute(NOTE_DAY, day)


async def last_of(tx: Tx, day: int) -> int | None:
    """Give an event at or after which none is of this day or before it; None when not known."""
    found: int | None = await tx.fetchval(LAST_OF_DAY, day)
    return found


async def rooms_with_old(tx: Tx, after: str, upto: int, limit: int) -> list[str]:
    """List rooms with something to forget up to an event, ordered, above a room ID."""
    return [row[0] for row in await tx.fetch(ROOMS, after, upto, limit)]


async def forget_read(tx: Tx, room_id: str, upto: int) -> None:
    """Forget of a room, up to an event, what every member of ours has read."""
    members = [row[0] for row in await tx.fetch(MEMBERS, room_id)]
    read: dict[str, dict[str, int]] = {}
    rows = [*await tx.fetch(RECEIPTS, room_id), *await tx.fetch(MARKS, room_id)]
    for user_id, thread_id, stream_id in [(row[0], row[1], row[2]) for row in rows]:
        threads = read.setdefault(user_id, {})
        threads[thread_id] = max(stream_id, threads.get(thread_id, stream_id))
    found = await tx.fetch(THREADS, room_id, upto)
    found = [*found, *await tx.fetch(OWN_THREADS, members, room_id, upto)]
    for thread_id in {row[0] for row in found}:
        done = min(upto, _read_by_all(members, read, thread_id, upto))
        await tx.execute(FORGET_OUTCOMES, room_id, thread_id, done)
        await tx.execute(FORGET_EXCEPTIONS, members, room_id, thread_id, done)


async def forget_all(tx: Tx, upto: int) -> None:
    """Forget everything up to an event, also what somebody has not read."""
    await tx.execute(FORGET_ALL_OUTCOMES, upto)
    await tx.execute(FORGET_ALL_EXCEPTIONS, upto)


async def forget_days(tx: Tx, before: int) -> None:
    """Forget the notes of days before one."""
    await tx.execute(FORGET_DAYS, before)


def _read_by_all(
    members: Sequence[str], read: Mapping[str, Mapping[str, int]], thread_id: str, upto: int
) -> int:
    """Give up to where every member has read a thread."""
    if not members:
        return upto
    return min(
        max(threads.get(_EVERYWHERE, 0), threads.get(thread_id, 0))
        for threads in (read.get(user_id, {}) for user_id in members)
    )
