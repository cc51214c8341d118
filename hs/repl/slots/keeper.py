"""Keeps the slots of this process: takes them, gives signs of life, hands them over.

Rules (the table of slots is described in `hs/repl/slots/table.py`):

- A process that may hold slots gives signs of life, one every `beat_s`, and looks at the others'.
  With each it renews its leases.
- The slots of a process without one for `silent_s` go to the others, in a transaction that fences
  its writers: what it may still send to the database is rejected. So do those of a process that
  lives and, by its own configuration, takes no slots of the stream any more.
- A process that gets slots first waits until its feed has what their last holder wrote, and until
  nothing of its own from an earlier time is pending. Then it loads what it needs from the tables.
- A process that gives slots away stops writing their keys, waits until all that it has accepted is
  committed, and then changes the table: a few slots at a time, to even out the load, or all of
  them when it stops; it has told the others before that it takes none. If it cannot finish in
  MOVE_S, it keeps them.
- A process that finds that it was taken for dead (its sign of life is gone, or a commit was
  rejected) holds nothing any more. Requests that it had accepted fail, and clients repeat them.
  It gets a new generation for its writers, and is a candidate without slots.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.stream_def import StreamDef
from hs.core.streams import SLOTS, SlotsRow
from hs.repl.feed import Feed
from hs.repl.freshness import Look, catch_up
from hs.repl.generations import WriterReplaced
from hs.repl.leases import Leases
from hs.repl.shared_writer import SharedTableWriter
from hs.repl.slots.assignment import Moves, balanced, first_holders, first_moves, moves_from
from hs.repl.slots.changes import Move, Takeover, give_away, take_over
from hs.repl.slots.key_writers import KeyWriters
from hs.repl.slots.silence import Silence
from hs.repl.slots.table import SlotTable
from hs.repl.writers import TableWriter, WriterFenced
from hs.storage import stream_log, stream_slots
from hs.storage.database import Database, DatabaseError

SILENT_S: Final = 8.0
BEAT_S: Final = SILENT_S / 3
MOVE_S: Final = 5.0
LEAVE_S: Final = 10.0
MOVED_AT_ONCE: Final = 8
REBALANCED_AT_ONCE: Final = 32
IDLE_PAUSE_S: Final = 0.005
REFRESH_S: Final = 0.2

log = logging.getLogger(__name__)


@attrs.define(eq=False, kw_only=True)
class SlotKeeper:
    """Keeps the slots of this process in `table`.

    `life` is a random name of this life of the process. `writers` are this process's table writers
    of each stream that it may hold slots of. `tables` are the table streams that are written by who
    holds the slots of a stream. `readers` begin when this process starts, and again after changes
    of slots were missed.
    """

    table: SlotTable
    life: str
    writers: Mapping[str, Sequence[TableWriter[Any]]]
    _tables: Mapping[str, Sequence[StreamDef[Any]]]
    _database: Database
    _leases: Leases
    _feed: Feed
    _changes: SharedTableWriter[SlotsRow]
    _look: Look
    beat_s: float = BEAT_S
    silent_s: float = SILENT_S
    readers: list[KeyWriters] = attrs.field(factory=list, init=False)
    _silence: Silence = attrs.field(init=False)
    _giving: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _refreshed_at: float = attrs.field(default=float("-inf"), init=False)
    _beat_at: float = attrs.field(default=float("inf"), init=False)  # from the first one on

    def __attrs_post_init__(self) -> None:
        self._silence = Silence(2 * self.beat_s)

    @property
    def own_streams(self) -> list[str]:
        """The streams of which this process may hold slots."""
        return sorted(self.writers)

    async def start(self) -> None:
        """Read who holds what, and hold what is this process's; its table writers have started.

        Raises: DatabaseError.
        """
        first = {stream: first_holders(names) for stream, names in self.table.configured.items()}
        await self._database.write(stream_slots.fill, first)
        if self.writers:
            await self._database.write(
                stream_slots.begin_life, self.table.instance, self.life, self.own_streams
            )
        self.table.note_all(await self._database.read(stream_slots.list_slots))
        await self._begin_readers()
        await self._accept()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the slots until cancelled, then hand them over.

        Raises: WriterReplaced, if another process has the name of this one.
        """
        task_status.started()
        if not self.writers:
            await self._follow()
        try:
            await self._keep()
        finally:
            with trio.move_on_after(LEAVE_S, shield=True):
                await self._leave()

    async def refresh(self) -> None:
        """Read who holds what, unless that was done a moment ago; never raises."""
        now = trio.current_time()
        if now - self._refreshed_at < REFRESH_S:
            return
        self._refreshed_at = now
        try:
            self.table.note_all(await self._database.read(stream_slots.list_slots))
        except DatabaseError as error:
            log.warning("cannot read who holds which slots: %s", error)

    async def rebalance(self) -> dict[str, int]:
        """Hand over at once what other processes should hold; return how many slots each got."""
        given: dict[str, int] = {}
        if not await self._sign_of_life():
            return given
        for stream in self.own_streams:
            moves = self._surplus(stream)
            for taker, slots in moves.items():
                for begin in range(0, len(slots), REBALANCED_AT_ONCE):
                    part = {taker: slots[begin : begin + REBALANCED_AT_ONCE]}
                    given[taker] = given.get(taker, 0) + await self._give(stream, part)
        return given

    async def _follow(self) -> NoReturn:
        """Keep what this process knows about the slots of others."""
        while True:
            changed = self.table.changed
            try:
                await self._begin_readers()
            except DatabaseError as error:
                log.warning("cannot read who holds which slots, retrying: %s", error)
            is_complete = all(reader.has_begun for reader in self.readers)
            with trio.move_on_after(math.inf if is_complete else self.beat_s):
                await changed.wait()

    async def _begin_readers(self) -> None:
        """Let readers begin that do not know the writers, once earlier ones' rows are here."""
        missed = {reader: reader.missed for reader in self.readers if not reader.has_begun}
        if not missed or not await self._stay_alive():
            return
        records = await self._database.read(stream_slots.list_slots)
        self.table.note_all(records)
        if not await self._catch_up():
            log.warning("waiting for the last rows of earlier holders of slots")
            return
        for reader, count in missed.items():
            if reader.missed == count:
                reader.begin(records)

    async def _keep(self) -> None:
        beat_at = trio.current_time()
        self.table.trusted_until = beat_at + self.silent_s
        while True:
            changed = self.table.changed
            try:
                if self.table.must_return:
                    await self._return()
                if self.table.is_behind:
                    await self.refresh()
                await self._begin_readers()
                if trio.current_time() >= beat_at:
                    beat_at = trio.current_time() + self.beat_s
                    await self._beat()
                await self._accept()
            except WriterReplaced:
                raise
            except (DatabaseError, Unavailable) as error:
                log.warning("cannot keep the slots of this process, retrying: %s", error)
            with trio.CancelScope(deadline=beat_at):
                await changed.wait()

    async def _beat(self) -> None:
        if not await self._sign_of_life():
            return
        for holder in sorted(self._holders() - {self.table.instance}):
            await self._take_over(holder)
        for stream in self.own_streams:
            moves = first_moves(self._surplus(stream), MOVED_AT_ONCE)
            if moves:
                await self._give(stream, moves)

    async def _sign_of_life(self) -> bool:
        """Send a sign of life and read those of the others.

        Return False if another process has taken this one for dead.
        """
        began = trio.current_time()
        self._beat_at = began + self.beat_s
        beats = await self._leases.renew_after(
            stream_slots.give_beat, self.table.instance, self.life
        )
        if beats is None:
            log.warning("this process was taken for dead, giving up what it had begun")
            self.table.lose_all()
            return False
        self.table.trusted_until = began + self.silent_s
        self._silence.look(beats, self._holders(), trio.current_time())
        return True

    async def _stay_alive(self) -> bool:
        """Send a sign of life if one is due; return False as `_sign_of_life` does.

        Several hand-overs or waits for others, one after the other, take longer than `silent_s`.
        """
        return trio.current_time() < self._beat_at or await self._sign_of_life()

    def _holders(self) -> set[str]:
        return {name for stream in self._tables for name in self.table.holders(stream)}

    # Taking over

    async def _take_over(self, holder: str) -> None:
        last = self._silence.last.get(holder)
        lost = [stream for stream in self._tables if holder in self.table.holders(stream)]
        if self._silence.silent_s(holder) >= self.silent_s:
            await self._take(Takeover(holder, last, self._orphans(holder, lost), self._tables))
        elif last is not None:
            for stream in lost:
                if stream not in last.streams:
                    moves = self._orphans(holder, [stream])
                    await self._take(Takeover(holder, last, moves, self._tables, stream))

    async def _take(self, takeover: Takeover) -> None:
        if not takeover.moves:
            return
        if await self._changes.write(take_over, takeover):
            log.warning(
                "process %s does not respond or is not configured to write %s: its slots go to %s",
                takeover.holder,
                ", ".join(takeover.moves),
                ", ".join(sorted({name for moves in takeover.moves.values() for name in moves})),
            )
        else:
            await self.refresh()

    def _orphans(self, holder: str, streams: Sequence[str]) -> dict[str, Moves]:
        """Return which processes get the slots of one that is gone, where there are any."""
        found: dict[str, Moves] = {}
        for stream in streams:
            candidates = self._candidates(stream) - {holder}
            if candidates:
                holders = self.table.holders(stream)
                found[stream] = moves_from(holder, holders, balanced(holders, candidates))
        return found

    def _candidates(self, stream: str) -> set[str]:
        heard = self._silence.candidates(stream, self.silent_s)
        return heard & set(self.table.configured[stream])

    # Giving away

    def _surplus(self, stream: str) -> Moves:
        """Return what others should hold; nothing as long as a process is silent that has slots."""
        holders, candidates = self.table.holders(stream), self._candidates(stream)
        if not set(holders) <= candidates:
            return {}
        return moves_from(self.table.instance, holders, balanced(holders, candidates))

    async def _give(self, stream: str, moves: Moves) -> int:
        async with self._giving:
            wanted = {slot for slots in moves.values() for slot in slots}
            slots = sorted(self.table.held(stream) & wanted)
            if not slots:
                return 0
            self.table.begin_leaving(stream, slots)
            given = 0
            try:
                if await self._wait_idle(stream, slots):
                    self.table.drop(stream, slots)
                    given_to = {
                        taker: [slot for slot in of_taker if slot in slots]
                        for taker, of_taker in moves.items()
                    }
                    ends = tuple(
                        (writer.stream.name, writer.writer, writer.committed)
                        for writer in self.writers[stream]
                    )
                    move = Move(stream, self.table.instance, given_to, ends)
                    given = await self._changes.write(give_away, move)
            finally:
                # Those that were not given are this process's still, and it holds them again.
                self.table.end_leaving(stream, slots)
        log.info("gave %d slots of stream %s to %s", given, stream, ", ".join(sorted(moves)))
        return given

    async def _wait_idle(self, stream: str, slots: Sequence[int]) -> bool:
        """Wait until nothing about these slots is pending; return whether it is so."""
        if not await self._stay_alive():
            return False
        with trio.move_on_after(MOVE_S):
            while self.table.is_busy(stream, slots):
                if stream in self.table.savers:
                    await self.table.savers[stream]()
                if not await self._stay_alive():
                    return False
                await trio.sleep(IDLE_PAUSE_S)
            if stream not in self.table.unfinished:
                # Calls whose callers went away are no longer counted, and may be waiting still.
                try:
                    for writer in self.writers[stream]:
                        await writer.write_earlier()
                except WriterFenced:  # others have taken over these slots meanwhile
                    return False
            return True
        return False

    async def _leave(self) -> None:
        """Hand over everything, because this process stops."""
        try:
            await self._database.write(stream_slots.begin_leaving, self.table.instance, self.life)
            # Processes that have started since the last sign of life take slots, too.
            if not await self._sign_of_life():
                return
            # Others may have given slots to this process just before it began to leave.
            self.table.note_all(await self._database.read(stream_slots.list_slots))
            await self._accept()
            for stream in self.own_streams:
                others = self._candidates(stream) - {self.table.instance}
                holders = self.table.holders(stream)
                if others and self.table.held(stream):
                    moves = moves_from(self.table.instance, holders, balanced(holders, others))
                    await self._give(stream, moves)
            await self._database.write(stream_slots.end_life, self.table.instance, self.life)
        except (DatabaseError, Unavailable) as error:
            log.warning("cannot hand over slots, other processes take them over: %s", error)

    # Getting slots

    async def _accept(self) -> None:
        """Hold what the table gives to this process."""
        era = self.table.era
        promised = self.table.promised()
        if not promised or not self.writers or self.table.must_return:
            return
        if not await self._catch_up():
            log.warning("waiting for what earlier holders of slots wrote")
            return
        idle = {
            stream: slots
            for stream, slots in promised.items()
            if stream in self.writers and await self._wait_idle(stream, slots)
        }
        # Of a hand-over whose outcome was unknown, this waits for the outcome.
        records = await self._database.write(stream_slots.list_settled, self.table.instance)
        if self.table.era != era:
            return
        self.table.note_all(records)
        for stream, slots in idle.items():
            own = set(self.table.promised().get(stream, ()))
            self.table.hold(stream, own.intersection(slots))

    async def _catch_up(self) -> bool:
        """Wait until the feed has what other processes wrote to the streams with slots."""
        streams = {stream.name: stream for tables in self._tables.values() for stream in tables}
        # What this process writes then tells others which changes of slots come before it.
        streams[SLOTS.name] = SLOTS
        targets = []
        for name, writer, position in await self._database.read(stream_log.list_positions):
            stream = streams.get(name)
            if stream is None or writer == self.table.instance:
                continue
            seen = self._feed.position_of(stream, writer)
            if seen is not None and seen < position:
                targets.append((stream, writer, position))
        return not targets or await catch_up(self._feed, targets, self._look)

    async def _return(self) -> None:
        """Become a candidate again after having lost everything."""
        era, table, began = self.table.era, self.table, trio.current_time()
        for writers in self.writers.values():
            for writer in writers:
                await writer.generation.renew()
        if not await self._database.write(
            stream_slots.return_to_life, table.instance, self.life, self.own_streams
        ):
            raise WriterReplaced("slots", table.instance)
        table.note_all(await self._database.read(stream_slots.list_slots))
        if table.era == era:
            table.must_return = False
            table.trusted_until = began + self.silent_s
        log.warning("this process is back, and gets slots from the others")
