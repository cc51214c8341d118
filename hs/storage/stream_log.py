"""The position of each writer of a stream, and the log of recent commits.

A writer is one instance name of one stream. Its row in `stream_positions` holds the position of
its last commit and the generation of the process that may write under this name (column `life`).
The row is the lock and the fence of the writer:

- Every commit to a stream updates the row, with the generation in the WHERE clause
  (`set_position`). If another process has taken over, no row matches, and the whole transaction
  fails with RowMissing. So of two processes with one name, only the last to start can commit.
- `take_over` and `renew_generation` update the same row, so they wait for a commit that is being
  written, and see its position. After them, no commit of an older generation can succeed, even if
  its statement is still on its way to the database.
- `fence` makes no generation valid: the slots of a process that does not respond pass to others
  (hs/repl/slots). If it does respond later, it asks for a new one by `renew_fenced`.
- After CommitUnknown, a writer calls `renew_generation`: the returned position shows whether the
  commit was written. The call may be repeated if its own outcome is unknown.
- A stream that any process may write has one row, and no generation. A commit takes its positions
  from it, so it locks the row until its end: positions are in the order of commits.
- Memory streams have a row as well: the end of the positions that were reserved for the present
  life of the writer, so that the next one begins above them even if the clock was set back.
- `stream_log` rows are written in the transaction of the commit that they describe. Each names
  the position before it, so a reader notices a gap.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.stream_def import ANY_PROCESS
from hs.storage.database import Tx
from hs.storage.rows import InsertRows, UpdateRows

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
# Accepts the new generation as well, so that the statement may be repeated.
RENEW_GENERATION = """
UPDATE stream_positions SET life = $4 WHERE stream = $1 AND writer = $2 AND life IN ($3, $4)
RETURNING position
"""
FENCED: Final = "fenced"
FENCE = f"""
UPDATE stream_positions SET life = '{FENCED}' WHERE stream = $1 AND writer = $2 RETURNING position
"""
RENEW_FENCED = """
UPDATE stream_positions SET life = $3 WHERE stream = $1 AND writer = $2 AND life = $4
"""
LIFE = "SELECT position, life FROM stream_positions WHERE stream = $1 AND writer = $2"
APPEND = InsertRows(
    "stream_log",
    "stream text, writer text, position bigint, previous bigint, written_ms bigint, "
    "row_bytes bytea",
)
READ = """
SELECT position, previous, row_bytes FROM stream_log
WHERE stream = $1 AND writer = $2 AND position > $3 ORDER BY position LIMIT $4
"""
PRUNE = "DELETE FROM stream_log WHERE written_ms < $1"

POSITION = "SELECT position FROM stream_positions WHERE stream = $1 AND writer = $2"
RESERVE = """
INSERT INTO stream_positions (stream, writer, position, life) VALUES ($1, $2, $3, '')
ON CONFLICT (stream, writer) DO UPDATE SET position = excluded.position
"""
NEXT_POSITION = """
INSERT INTO stream_positions (stream, writer, position, life) VALUES ($1, $2, 1, '')
ON CONFLICT (stream, writer) DO UPDATE SET position = stream_positions.position + 1
RETURNING position
"""


@attrs.frozen
class LoggedCommit:
    """One commit in the log; `row_bytes` are the rows as the writer encoded them."""

    position: int
    previous: int
    row_bytes: bytes


async def list_positions(tx: Tx) -> list[tuple[str, str, int]]:
    """List (stream, writer, position of its last commit) for all streams."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(POSITIONS)]


async def stream_positions(tx: Tx, stream: str) -> dict[str, int]:
    """Return the position of each writer's last commit to a stream."""
    return {row[0]: row[1] for row in await tx.fetch(POSITION_OF_STREAM, stream)}


async def take_over(tx: Tx, stream: str, writer: str, generation: str) -> dict[str, int]:
    """Make `generation` the only one that may write under this name.

    Waits for a commit of the previous generation that is being written.
    Returns: the positions of all writers of the stream.
    """
    await tx.execute(TAKE_OVER, stream, writer, generation)
    return await stream_positions(tx, stream)


async def set_position(tx: Tx, stream: str, writer: str, generation: str, position: int) -> None:
    """Store the position of a commit, in the transaction of that commit.

    Raises: RowMissing, by the end of the transaction, if another process has taken over.
    """
    await tx.update_row(SET_POSITION, (stream, writer, generation, position))


async def renew_generation(
    tx: Tx, stream: str, writer: str, generation: str, next_generation: str
) -> int | None:
    """Replace a writer's generation by its next one; may be repeated.

    Returns: the writer's position, which no commit of the old generation can change any more;
    None if another process has taken over.
    """
    position: int | None = await tx.fetchval(
        RENEW_GENERATION, stream, writer, generation, next_generation
    )
    return position


async def fence(tx: Tx, stream: str, writer: str) -> int:
    """Let no generation of a writer commit any more; return its position, which is final.

    Waits for a commit that is being written.
    """
    position: int | None = await tx.fetchval(FENCE, stream, writer)
    return position or 0


async def renew_fenced(tx: Tx, stream: str, writer: str, generation: str, new: str) -> str | None:
    """Replace the generation of a writer if it was fenced; return the valid one.

    Returns: None if that is neither of these: another process writes under this name.
    """
    await tx.execute(RENEW_FENCED, stream, writer, new, FENCED)
    row = await tx.fetchrow(LIFE, stream, writer)
    return row[1] if row is not None and row[1] in (generation, new) else None


async def position_and_life(tx: Tx, stream: str, writer: str) -> tuple[int, str] | None:
    """Return the position and the valid generation of a writer, or FENCED; None without a row."""
    row = await tx.fetchrow(LIFE, stream, writer)
    return None if row is None else (row[0], row[1])


async def reserve(tx: Tx, stream: str, writer: str, first: int, count: int) -> int:
    """Reserve positions for one life of a memory writer; return the one before the first.

    It is `first`, or more if an earlier life had reserved positions above that.
    """
    stored = await tx.fetchval(POSITION, stream, writer) or 0
    begin = max(first, stored + 1)
    await tx.execute(RESERVE, stream, writer, begin + count)
    return begin


async def next_position(tx: Tx, stream: str) -> int:
    """Return the next position of a stream that any process may write.

    No other transaction gets a position of this stream before this one has ended.
    """
    position: int = await tx.fetchval(NEXT_POSITION, stream, ANY_PROCESS)
    return position


async def is_writer(tx: Tx, stream: str, writer: str, generation: str) -> bool:
    """Return whether `generation` may write; no other process takes over in this transaction."""
    return await renew_generation(tx, stream, writer, generation, generation) is not None


async def append(tx: Tx, stream: str, writer: str, commit: LoggedCommit, now_ms: int) -> None:
    """Append a commit to the log, in the transaction of that commit."""
    row = (stream, writer, commit.position, commit.previous, now_ms, commit.row_bytes)
    await tx.insert_rows(APPEND, [row])


async def read(tx: Tx, stream: str, writer: str, after: int, limit: int) -> Sequence[LoggedCommit]:
    """Return up to `limit` commits of a writer after a position, oldest first."""
    rows = await tx.fetch(READ, stream, writer, after, limit)
    return [LoggedCommit(row[0], row[1], bytes(row[2])) for row in rows]


async def prune(tx: Tx, before_ms: int) -> int:
    """Delete log entries written before a time (ms); return their number."""
    return await tx.execute(PRUNE, before_ms)
