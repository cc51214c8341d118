"""The slots of streams that several processes may write, and the signs of life of these processes.

- Every change of a slot increases its epoch. A slot is taken from a process by the process itself,
  or in a transaction that also fences its writers (`stream_log.fence`): so a process that holds a
  slot by what it knows, and can commit, does hold it.
- `take_beat` removes the sign of life of a process that is taken for dead. It is refused if there
  has been another sign since it was read; and a process whose own sign is gone finds that out with
  its next one.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

FILL: Final = InsertRows(
    "stream_slots",
    "stream text, slot bigint, holder text, epoch bigint",
    "ON CONFLICT (stream, slot) DO NOTHING",
)
LIST = "SELECT stream, slot, holder, epoch FROM stream_slots ORDER BY stream, slot"
LOCK: Final = sql(lambda d: f"SELECT slot FROM stream_slots WHERE holder = $1 {d.row_lock()}")
LOCK_HELD: Final = sql(
    lambda d: (
        "SELECT slot, epoch FROM stream_slots WHERE stream = $1 AND holder = $2 "
        f"AND {d.any_of('slot', 3, 'bigint')} ORDER BY slot {d.row_lock()}"
    )
)
GIVE: Final = sql(
    lambda d: (
        f"""
UPDATE stream_slots SET holder = $3, epoch = epoch + 1
WHERE stream = $1 AND holder = $2 AND {d.any_of("slot", 4, "bigint")}
RETURNING slot, epoch
"""
    )
)
BEGIN_LIFE = """
INSERT INTO process_beats (instance, life, beat, streams) VALUES ($1, $2, 1, $3)
ON CONFLICT (instance) DO UPDATE SET
    life = excluded.life, beat = process_beats.beat + 1, streams = excluded.streams, is_leaving = 0
"""
RETURN_TO_LIFE = f"{BEGIN_LIFE} WHERE process_beats.life = excluded.life"
BEAT = "UPDATE process_beats SET beat = beat + 1 WHERE instance = $1 AND life = $2"
BEGIN_LEAVING = "UPDATE process_beats SET is_leaving = 1 WHERE instance = $1 AND life = $2"
LIST_BEATS = "SELECT instance, life, beat, streams, is_leaving FROM process_beats"
TAKE_BEAT = "DELETE FROM process_beats WHERE instance = $1 AND life = $2 AND beat = $3"
READ_BEAT = "SELECT life, streams FROM process_beats WHERE instance = $1"
# Locked, so that slots pass to a process either before it begins to leave, or not at all.
LOCK_TAKER: Final = sql(
    lambda d: (
        "SELECT streams FROM process_beats WHERE instance = $1 AND is_leaving = 0 " + d.row_lock()
    )
)
END_LIFE = "DELETE FROM process_beats WHERE instance = $1 AND life = $2"


@attrs.frozen
class SlotRecord:
    """One slot of a stream."""

    stream: str
    slot: int
    holder: str
    epoch: int


@attrs.frozen
class Beat:
    """The latest sign of life of a process; `streams` are those of which it may hold slots.

    One that `is_leaving` takes no more of them.
    """

    instance: str
    life: str
    beat: int
    streams: frozenset[str]
    is_leaving: bool = False


async def fill(tx: Tx, holders: Mapping[str, Sequence[str]]) -> None:
    """Store the holder of each slot of streams; those that are stored stay as they are."""
    for stream, of_stream in sorted(holders.items()):
        rows = [(stream, slot, holder, 1) for slot, holder in enumerate(of_stream)]
        await tx.insert_rows(FILL, rows)


async def list_slots(tx: Tx) -> list[SlotRecord]:
    """List all slots."""
    return [SlotRecord(row[0], row[1], row[2], row[3]) for row in await tx.fetch(LIST)]


async def list_settled(tx: Tx, holder: str) -> list[SlotRecord]:
    """List all slots, after a transaction that gives slots of this process away has ended."""
    await tx.fetch(LOCK, holder)
    return await list_slots(tx)


async def lock_held(tx: Tx, stream: str, holder: str, epochs: Mapping[int, int]) -> set[int]:
    """Return the slots that a process has held since these epochs, until the transaction ends."""
    rows = await tx.fetch(LOCK_HELD, stream, holder, list(epochs))
    return {row[0] for row in rows if row[1] == epochs[row[0]]}


async def give(
    tx: Tx, stream: str, holder: str, next_holder: str, slots: Sequence[int]
) -> list[tuple[int, int]]:
    """Pass slots of a process to another one; return those that it held, with their new epochs."""
    rows = await tx.fetch(GIVE, stream, holder, next_holder, list(slots))
    return sorted((row[0], row[1]) for row in rows)


async def begin_life(tx: Tx, instance: str, life: str, streams: Sequence[str]) -> None:
    """Store the first sign of life of a process that starts."""
    await tx.execute(BEGIN_LIFE, instance, life, ",".join(streams))


async def return_to_life(tx: Tx, instance: str, life: str, streams: Sequence[str]) -> bool:
    """Store a sign of life of a process that was taken for dead.

    Returns: False if another process has its name.
    """
    return await tx.execute(RETURN_TO_LIFE, instance, life, ",".join(streams)) == 1


async def give_beat(tx: Tx, instance: str, life: str) -> list[Beat] | None:
    """Store another sign of life; list those of all processes, or None if it was taken for dead."""
    if await tx.execute(BEAT, instance, life) == 0:
        return None
    return [
        Beat(row[0], row[1], row[2], frozenset(row[3].split(",")), bool(row[4]))
        for row in await tx.fetch(LIST_BEATS)
    ]


async def take_beat(tx: Tx, instance: str, last: Beat | None) -> bool:
    """Declare a process dead whose last sign of life is `last`, or that has none.

    Returns: False if there is another one.
    """
    if last is None:
        return await tx.fetchrow(READ_BEAT, instance) is None
    return await tx.execute(TAKE_BEAT, instance, last.life, last.beat) == 1


async def is_candidate(tx: Tx, instance: str, stream: str) -> bool:
    """Return whether a process is there and takes slots of a stream, until the transaction ends."""
    row = await tx.fetchrow(LOCK_TAKER, instance)
    return row is not None and stream in row[0].split(",")


async def is_unwilling(tx: Tx, last: Beat, stream: str) -> bool:
    """Return whether a process is still in the life of a sign, and takes no slots of a stream."""
    row = await tx.fetchrow(READ_BEAT, last.instance)
    return row is not None and row[0] == last.life and stream not in row[1].split(",")


async def begin_leaving(tx: Tx, instance: str, life: str) -> None:
    """Store that a process takes no more slots, because it stops."""
    await tx.execute(BEGIN_LEAVING, instance, life)


async def end_life(tx: Tx, instance: str, life: str) -> None:
    """Remove the signs of life of a process that stops."""
    await tx.execute(END_LIFE, instance, life)
