"""Tables of push rules, and of the results of evaluating them for events.

`push_outcomes` has a row for each event that notifies users with the default rules, and
`push_exceptions` one for each other user whose outcome differs: the differences of notifications
and highlights. `push_marks` has the stream IDs up to which users have read by joining or by
sending; the thread '' stands for the whole room. `push_progress` has the position of the
evaluation.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.push import pushers
from hs.storage.push.pushers import QueueRecord
from hs.storage.rows import InsertRows

RULES = "SELECT rules FROM push_rulesets WHERE user_id = $1"
ALL_RULES = "SELECT user_id, rules FROM push_rulesets"
SET_RULES = """
INSERT INTO push_rulesets (user_id, rules, stream_id) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET rules = excluded.rules, stream_id = excluded.stream_id
"""
INSERT_OUTCOMES = InsertRows(
    "push_outcomes",
    "stream_id bigint, room_id text, thread_id text, sender text, "
    "notify smallint, highlight smallint, actions text",
    conflict="ON CONFLICT (stream_id) DO NOTHING",
)
INSERT_EXCEPTIONS = InsertRows(
    "push_exceptions",
    "user_id text, room_id text, stream_id bigint, event_id text, thread_id text, "
    "notify smallint, highlight smallint, actions text",
    conflict="ON CONFLICT (user_id, room_id, stream_id) DO NOTHING",
)
SET_MARKS = InsertRows(
    "push_marks",
    "user_id text, room_id text, thread_id text, stream_id bigint",
    conflict=(
        "ON CONFLICT (user_id, room_id, thread_id) DO UPDATE SET stream_id = excluded.stream_id"
    ),
)
REMOVE_OUTCOMES = sql(
    lambda d: f"DELETE FROM push_outcomes WHERE {d.any_of('stream_id', 1, 'bigint')}"
)
REMOVE_EXCEPTIONS = sql(
    lambda d: f"DELETE FROM push_exceptions WHERE {d.any_of('stream_id', 1, 'bigint')}"
)
SET_PROGRESS = """
INSERT INTO push_progress (name, position) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""
PROGRESS = "SELECT position FROM push_progress WHERE name = $1"
MARKS = "SELECT room_id, thread_id, stream_id FROM push_marks WHERE user_id = $1"
# Also the invites of local users to rooms of other servers, which are outliers.
# Outliers that became part of their rooms have lower stream IDs than positions.
NEWER_EVENTS = """
SELECT * FROM (
    SELECT * FROM (
        SELECT e.stream_id, e.writer, e.event_id FROM events e
        WHERE e.stream_id > $1 AND (e.status = 0 OR (e.status = 3 AND EXISTS (
            SELECT 1 FROM local_memberships m
            WHERE m.user_id = e.state_key AND m.room_id = e.room_id AND m.event_id = e.event_id
        ))) ORDER BY e.stream_id LIMIT $2
    ) stored UNION ALL SELECT * FROM (
        SELECT p.position, p.writer, e.event_id FROM placed_outliers p
        JOIN events e ON e.stream_id = p.number
        WHERE p.position > $1 AND e.status = 0 ORDER BY p.position LIMIT $2
    ) placed
) log ORDER BY stream_id LIMIT $2
"""
# The outcomes in rooms, newest first, without those for which the user has an exception.
OUTCOMES_OF_ROOMS = sql(
    lambda d: (
        "SELECT o.stream_id, o.room_id, v.event_id, o.thread_id, o.highlight, o.actions "
        "FROM push_outcomes o JOIN events v ON v.stream_id = o.stream_id "
        f"WHERE {d.any_of('o.room_id', 2, 'text')} AND o.sender <> $1 "
        "AND o.notify = 1 AND o.stream_id < $3 AND (o.highlight = 1 OR $4 = 0) "
        "AND NOT EXISTS (SELECT 1 FROM push_exceptions e WHERE e.user_id = $1 "
        "AND e.room_id = o.room_id AND e.stream_id = o.stream_id) "
        "ORDER BY o.stream_id DESC LIMIT $5"
    )
)
EXCEPTIONS_OF_USER = """
SELECT e.stream_id, e.room_id, e.event_id, e.thread_id,
       e.highlight + coalesce(o.highlight, 0), e.actions
FROM push_exceptions e LEFT JOIN push_outcomes o ON o.stream_id = e.stream_id
WHERE e.user_id = $1 AND e.actions <> '' AND e.stream_id < $2
  AND (e.highlight + coalesce(o.highlight, 0) = 1 OR $3 = 0)
ORDER BY e.stream_id DESC LIMIT $4
"""
EVALUATED: Final = "evaluated"


class OutcomeRecord(NamedTuple):
    """A row of push_outcomes."""

    stream_id: int
    room_id: str
    thread_id: str
    sender: str
    notify: int
    highlight: int
    actions: str


class ExceptionRecord(NamedTuple):
    """A row of push_exceptions."""

    user_id: str
    room_id: str
    stream_id: int
    event_id: str
    thread_id: str
    notify: int
    highlight: int
    actions: str


class NotificationRecord(NamedTuple):
    """An event that notified a user."""

    stream_id: int
    room_id: str
    event_id: str
    thread_id: str
    highlight: int
    actions: str


class Evaluated(NamedTuple):
    """Results of the evaluation and its position, which are stored in one transaction."""

    outcomes: Sequence[OutcomeRecord]
    exceptions: Sequence[ExceptionRecord]
    marks: Sequence[tuple[str, str, str, int]]  # each key only once
    removed: Sequence[int]
    position: str
    queue: Sequence[QueueRecord] = ()


async def load_rules(tx: Tx, user_id: str) -> bytes | None:
    """Return the encoded rules that a user set, None if there are none."""
    rules = await tx.fetchval(RULES, user_id)
    return None if rules is None else bytes(rules)


async def list_rules(tx: Tx) -> list[tuple[str, bytes]]:
    """List (user, encoded rules) of all users who set any."""
    return [(row[0], bytes(row[1])) for row in await tx.fetch(ALL_RULES)]


async def set_rules(tx: Tx, user_id: str, rules: bytes, stream_id: int) -> None:
    """Store the encoded rules that a user set."""
    await tx.execute(SET_RULES, user_id, rules, stream_id)


async def store_results(tx: Tx, evaluated: Evaluated) -> None:
    """Store results of the evaluation and its position; idempotent."""
    await tx.insert_rows(INSERT_OUTCOMES, evaluated.outcomes)
    await tx.insert_rows(INSERT_EXCEPTIONS, evaluated.exceptions)
    await tx.insert_rows(SET_MARKS, evaluated.marks)
    if evaluated.removed:
        await tx.execute(REMOVE_OUTCOMES, list(evaluated.removed))
        await tx.execute(REMOVE_EXCEPTIONS, list(evaluated.removed))
    await pushers.add_to_queue(tx, evaluated.queue)
    await tx.execute(SET_PROGRESS, EVALUATED, evaluated.position)


async def load_position(tx: Tx) -> str | None:
    """Return the stored position of the evaluation, None before the first."""
    position: str | None = await tx.fetchval(PROGRESS, EVALUATED)
    return position


async def list_events_after(tx: Tx, after: int, limit: int) -> list[tuple[int, str, str]]:
    """List (position, writer, event ID) of accepted events above a position, in order."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(NEWER_EVENTS, after, limit)]


async def list_marks(tx: Tx, user_id: str) -> list[tuple[str, str, int]]:
    """List (room, thread, stream ID) of a user's marks."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(MARKS, user_id)]


async def list_notifications(
    tx: Tx, user_id: str, room_ids: Sequence[str], before: int, highlights: bool, limit: int
) -> list[NotificationRecord]:
    """List the events below a stream ID that notified a user in rooms, the newest first.

    With `highlights`, only those that highlight.
    """
    only_highlights = int(highlights)
    outcomes = await tx.fetch(
        OUTCOMES_OF_ROOMS, user_id, list(room_ids), before, only_highlights, limit
    )
    exceptions = await tx.fetch(EXCEPTIONS_OF_USER, user_id, before, only_highlights, limit)
    rooms = set(room_ids)
    records = [NotificationRecord(*row) for row in [*outcomes, *exceptions] if row[1] in rooms]
    return sorted(records, reverse=True)[:limit]
