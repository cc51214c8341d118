"""How far each writer of a stream has come, and the log of its recent commits."""

from collections.abc import Sequence

import attrs

from hs.storage.database import Tx
from hs.storage.rows import Rows, UpdateRows

POSITIONS = "SELECT stream, writer, position FROM stream_positions"
POSITION_OF_STREAM = """
SELECT writer, position FROM stream_positions WHERE stream = $1
"""
TAKE_OVER = """
INSERT INTO stream_positions (stream, writer, position, life) VALUES ($1, $2, 0, $3)
ON CONFLICT (stream, writer) DO UPDATE SET life = excluded.life
"""
SET_POSITION = UpdateRows(
    "stream_positions", key="stream text, writer text, life text", values="position bigint"
)
# It waits for a commit of the old life that is still under way, and lets none come after it.
BEGIN_ANEW = """
UPDATE stream_positions SET life = $4 WHERE stream = $1 AND writer = $2 AND life IN ($3, $4)
RETURNING position
"""
APPEND = Rows(
    "stream_log",
    "stream text, writer text, position bigint, previous bigint, written_ms bigint, "
    "row_bytes bytea",
)
READ = """
SELECT position, previous, row_bytes FROM stream_log
WHERE stream = $1 AND writer = $2 AND position > $3 ORDER BY position LIMIT $4
"""
PRUNE = "DELETE FROM stream_log WHERE written_ms < $1"


@attrs.frozen
class LoggedCommit:
    """One commit as the log keeps it: `row_bytes` is encoded by the writer."""

    position: int
    previous: int
    row_bytes: bytes


async def positions(tx: Tx) -> list[tuple[str, str, int]]:
    """List (stream, writer, position of its last commit) of all streams."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(POSITIONS)]


async def positions_of(tx: Tx, stream: str) -> dict[str, int]:
    """Give the position of each writer's last commit to a stream."""
    return {row[0]: row[1] for row in await tx.fetch(POSITION_OF_STREAM, stream)}


async def take_over(tx: Tx, stream: str, writer: str, life: str) -> dict[str, int]:
    """Let nobody but this life write under a name; give the positions of the stream's writers.

    A commit of the life before that is still under way ends first, and is seen.
    """
    await tx.execute(TAKE_OVER, stream, writer, life)
    return await positions_of(tx, stream)


async def set_position(tx: Tx, stream: str, writer: str, life: str, position: int) -> None:
    """Record the position of a writer's commit, in its transaction.

    Raises, at the transaction's end: RowMissing, if it was replaced.
    """
    await tx.update_row(SET_POSITION, (stream, writer, life, position))


async def begin_anew(tx: Tx, stream: str, writer: str, life: str, next_life: str) -> int | None:
    """Let a writer go on under another life; None: it was replaced by another process.

    Gives its position: no commit of the old life will change it any more, even if one is still on
    its way to the database. It may be done again.
    """
    position: int | None = await tx.fetchval(BEGIN_ANEW, stream, writer, life, next_life)
    return position


async def is_writer(tx: Tx, stream: str, writer: str, life: str) -> bool:
    """Tell whether this life writes under a name; nobody takes over before the transaction ends."""
    return await begin_anew(tx, stream, writer, life, life) is not None


async def append(tx: Tx, stream: str, writer: str, commit: LoggedCommit, now_ms: int) -> None:
    """Add a commit to the log, in the commit's transaction."""
    row = (stream, writer, commit.position, commit.previous, now_ms, commit.row_bytes)
    await tx.insert_rows(APPEND, [row])


async def read(tx: Tx, stream: str, writer: str, after: int, limit: int) -> Sequence[LoggedCommit]:
    """Give a writer's commits after a position, oldest first."""
    rows = await tx.fetch(READ, stream, writer, after, limit)
    return [LoggedCommit(row[0], row[1], bytes(row[2])) for row in rows]


async def prune(tx: Tx, before_ms: int) -> int:
    """Forget commits older than a time; give how many."""
    return await tx.execute(PRUNE, before_ms)
