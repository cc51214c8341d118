"""The transactions in which slots change hands; each publishes its rows (see SharedTableWriter)."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hs.core.stream_def import StreamDef
from hs.core.streams import SlotsRow
from hs.repl.shared_writer import SharedStreamIds
from hs.repl.slots.assignment import Moves
from hs.storage import stream_log, stream_slots
from hs.storage.database import Tx
from hs.storage.stream_slots import Beat

Rows = list[tuple[int, SlotsRow]]
Ends = tuple[tuple[str, str, int], ...]


@attrs.frozen
class Takeover:
    """The slots that a dead process loses.

    `last` is its last sign of life, if there is one. `moves` are by stream; `tables` are the table
    streams that the process wrote because it held the slots. `unwilling_of` is set instead if the
    process lives, and takes no slots of that stream any more.
    """

    holder: str
    last: Beat | None
    moves: Mapping[str, Moves]
    tables: Mapping[str, Sequence[StreamDef[Any]]]
    unwilling_of: str | None = None


@attrs.frozen
class Move:
    """The slots of a stream that a process gives away; `ends` are its last positions."""

    stream: str
    holder: str
    moves: Moves
    ends: Ends


async def take_over(tx: Tx, ids: SharedStreamIds, takeover: Takeover) -> tuple[bool, Rows]:
    """Take the slots of a dead process, and fence its writers.

    Returns: False if the process is not dead.
    """
    if takeover.unwilling_of is not None:
        assert takeover.last is not None
        is_over = await stream_slots.is_unwilling(tx, takeover.last, takeover.unwilling_of)
    else:
        is_over = await stream_slots.take_beat(tx, takeover.holder, takeover.last)
    if not is_over:
        return False, []
    changes: Rows = []
    for stream, moves in takeover.moves.items():
        ends = [
            (
                table.name,
                takeover.holder,
                await stream_log.fence(tx, table.name, takeover.holder),
            )
            for table in takeover.tables[stream]
        ]
        changes += await _give(tx, ids, Move(stream, takeover.holder, moves, tuple(ends)))
    return True, changes


async def give_away(tx: Tx, ids: SharedStreamIds, move: Move) -> tuple[int, Rows]:
    """Pass slots to processes that are there; return how many were passed."""
    moves = {
        taker: slots
        for taker, slots in move.moves.items()
        if await stream_slots.is_candidate(tx, taker, move.stream)
    }
    changes = await _give(tx, ids, attrs.evolve(move, moves=moves))
    return sum(len(row.slots) for _, row in changes), changes


async def _give(tx: Tx, ids: SharedStreamIds, move: Move) -> Rows:
    rows: Rows = []
    for taker, slots in move.moves.items():
        given = await stream_slots.give(tx, move.stream, move.holder, taker, slots)
        if given:
            # The ID comes first: it locks out other changes, so `begins` counts those before it.
            stream_id = await ids.next_id()
            begins = [
                (table, taker, (await stream_log.stream_positions(tx, table)).get(taker, 0))
                for table, _, _ in move.ends
            ]
            row = SlotsRow(move.stream, taker, tuple(given), move.ends, tuple(begins))
            rows.append((stream_id, row))
    return rows
