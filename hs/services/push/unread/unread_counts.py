"""Unread counts of users, in each process, from what the evaluation tells.

A count is kept with how far the user had read and up to where events are in it; what came since
is added when it is asked for. Only when a user has read less far than this process remembers is
the database asked, once for all rooms.

Spec: client-server API, Receiving notifications.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Final

import attrs
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.push.unread import Count, RoomCounts
from hs.core.relations import MAIN_TIMELINE
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow, UnreadRow
from hs.repl.rpc_reply import RpcFailed, RpcUnavailable
from hs.repl.streams import EVENTS, UNREAD
from hs.services.ephemeral.receipts import Receipts
from hs.services.ephemeral.room_receipts import RoomReceipts
from hs.services.push.evaluation.evaluation_duty import EvaluationStore
from hs.services.push.unread.implicit_reads import EVERYWHERE, NO_MARKS, ReadMarks
from hs.services.push.unread.recent_notifications import Tail, Tails
from hs.storage.database import Database
from hs.storage.push import push_rules as storage
from hs.storage.push.push_rules import Span

MAX_COUNTS: Final = 200_000
EVALUATION_S: Final = 0.5
"""How long an answer waits for the evaluation of events that it will show."""

PATIENCE_S: Final = 5.0
"""How long nobody waits after the evaluation was too slow: its process is being restarted."""

MAX_TRIES: Final = 10


@attrs.frozen
class ReadUpTo:
    """How far a user has read a room, by receipts, joining and sending."""

    everywhere: int
    threads: Mapping[str, int]

    def of_thread(self, thread_id: str) -> int:
        """Tell how far a thread is read."""
        return max(self.everywhere, self.threads.get(thread_id, self.everywhere))


@attrs.frozen(eq=False)
class _Basis:
    """What `ReadUpTo` was derived from, to tell cheaply whether it still holds."""

    receipts: RoomReceipts
    changes: int
    marks: Mapping[str, int]


@attrs.define(eq=False)
class _Counted:
    """Counts by thread of what is in `(read, upto]`."""

    read: ReadUpTo
    upto: int
    version: int
    threads: dict[str, tuple[int, int]]
    shown: RoomCounts | None = None
    basis: _Basis | None = None


_Key = tuple[UserID, RoomID]


class UnreadCounts:
    """The counts of one process."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        receipts: Receipts,
        store: EvaluationStore,
        writer_of: Callable[[RoomID], str],
    ) -> None:
        self._database = database
        self._receipts = receipts
        self._store = store
        self._writer_of = writer_of
        self._tails = Tails()
        self._marks = ReadMarks(database)
        self._counts: LruCache[_Key, _Counted] = LruCache("unread", max_entries=MAX_COUNTS)
        self._seen: dict[str, int] = {}
        self._evaluated = VectorPosition()
        self._may_be_behind = True
        self._stored = VectorPosition()
        self._impatient_until_s = 0.0
        self._knows_progress = False
        # The evaluating process could not be asked; what is stored has to do.
        self._is_guess = False
        self._guessing_until_s = 0.0
        self._advanced = trio.Event()
        # What was told and is perhaps not in the database yet.
        self._unsaved: deque[tuple[int, UnreadRow]] = deque()
        feed.subscribe(EVENTS, self._on_events)
        feed.subscribe(UNREAD, self._on_unread)

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition | None = None
    ) -> dict[RoomID, RoomCounts]:
        """Give a user's counts; rooms without any are left out.

        All events that this process has seen are in them, `upto` therefore as well.
        """
        if not self._knows_progress:
            await self._learn_progress()
        if self._is_behind():
            await self._wait_for_evaluation()
        found: dict[RoomID, RoomCounts] = {}
        missing: list[RoomID] = []
        for room_id in room_ids:
            counted = self._count_nowait(user_id, room_id)
            if counted is None:
                missing.append(room_id)
            elif counted.threads:
                found[room_id] = _shown(counted)
        if missing:
            for room_id, counted in (await self._count(user_id, missing)).items():
                if counted.threads:
                    found[room_id] = _shown(counted)
        return found

    async def badge(self, user_id: UserID, room_ids: Collection[RoomID], by_room: bool) -> int:
        """Give the number for a client's icon: unread rooms, or unread notifications."""
        totals = [one.total() for one in (await self.counts(user_id, room_ids)).values()]
        if by_room:
            return sum(1 for total in totals if total.notifications)
        return sum(total.notifications for total in totals)

    async def marks(
        self, user_id: UserID, room_ids: Collection[RoomID]
    ) -> dict[RoomID, tuple[ReadUpTo, int]]:
        """Tell how far a user has read rooms, and since when they are in them (0: always)."""
        await self._learn_progress()
        rooms = list(room_ids)
        await self._get_ready(user_id, rooms)
        found: dict[RoomID, tuple[ReadUpTo, int]] = {}
        for room_id in rooms:
            read = self._read_nowait(user_id, room_id)
            marks = self._marks.of_room_nowait(user_id, room_id) or NO_MARKS
            if read is not None:
                found[room_id] = (read, marks.get(EVERYWHERE, 0))
        return found

    async def has_read(
        self, user_id: UserID, room_id: RoomID, thread_id: str, stream_id: int
    ) -> bool:
        """Tell whether a user has read an event, by what this process has heard."""
        read = self._read_nowait(user_id, room_id)
        if read is None:
            await self._get_ready(user_id, [room_id])
            read = self._read_nowait(user_id, room_id)
        return read is not None and stream_id <= read.of_thread(thread_id)

    # Counting

    def _count_nowait(self, user_id: UserID, room_id: RoomID) -> _Counted | None:
        tail = self._tails.get(room_id)
        if tail is None:
            return None
        counted = self._counts.get((user_id, room_id))
        if counted is not None and self._has_not_read_on(counted, user_id, room_id):
            read, basis = counted.read, counted.basis
        else:
            found = self._read_nowait(user_id, room_id)
            if found is None:
                return None
            read, basis = found, self._basis(user_id, room_id)
        if (
            counted is None
            or not _still_holds(counted, tail)
            or (counted.read != read and not _read_on(counted, tail, user_id, read))
        ):
            if read.everywhere < tail.floor:
                return None
            counted = _Counted(read, tail.floor, tail.version, {})
            self._counts.put((user_id, room_id), counted)
        counted.basis = basis
        _add_news(counted, tail, user_id)
        return counted

    def _basis(self, user_id: UserID, room_id: RoomID) -> _Basis | None:
        receipts = self._receipts.of_room_nowait(room_id)
        marks = self._marks.of_room_nowait(user_id, room_id)
        if receipts is None or marks is None:
            return None
        return _Basis(receipts, receipts.changes, dict(marks))

    def _has_not_read_on(self, counted: _Counted, user_id: UserID, room_id: RoomID) -> bool:
        basis = counted.basis
        if basis is None:
            return False
        receipts = self._receipts.of_room_nowait(room_id)
        return (
            receipts is basis.receipts
            and receipts.changes == basis.changes
            and self._marks.of_room_nowait(user_id, room_id) == basis.marks
        )

    async def _count(self, user_id: UserID, room_ids: list[RoomID]) -> dict[RoomID, _Counted]:
        begun: dict[RoomID, _Counted] = {}
        complete: dict[RoomID, _Counted] = {}
        for _ in range(MAX_TRIES):
            await self._get_ready(user_id, room_ids)
            spans, begun = self._begin(user_id, room_ids)
            rows = await self._database.read(storage.counts, user_id, spans) if spans else []
            for room_id, thread_id, notify, highlight in rows:
                if notify or highlight:
                    begun[RoomID(room_id)].threads[thread_id] = (notify, highlight)
            for room_id, counted in begun.items():
                self._counts.put((user_id, room_id), counted)
            found = {room_id: self._count_nowait(user_id, room_id) for room_id in room_ids}
            complete = {room_id: one for room_id, one in found.items() if one is not None}
            if len(complete) == len(room_ids):
                return complete
            # Somebody read, or something was taken away, while the database was asked.
        if begun.keys() >= set(room_ids):
            # It was right when the database was asked, and who reads on this fast asks again.
            return {**begun, **complete}
        raise RuntimeError("what unread counts need does not stay in memory")

    async def _get_ready(self, user_id: UserID, room_ids: list[RoomID]) -> None:
        """Get into memory what counting needs, and into the database what it is asked for."""
        await self._receipts.of_rooms(room_ids)
        # Taken before reading: what is stored meanwhile leaves the list of what is not.
        marks = [one for _, row in self._unsaved for one in row.marks if one[0] == user_id]
        await self._marks.load(user_id)
        for _, room_id, thread_id, stream_id in marks:
            self._marks.put(user_id, RoomID(room_id), thread_id, stream_id)
        if not self._knows_progress or self._must_store_first(room_ids):
            await self._learn_progress()
        for room_id in room_ids:
            if self._tails.get(room_id) is None:
                self._take_up(room_id)

    def _take_up(self, room_id: RoomID) -> None:
        self._tails.take_up(room_id, self._stored_up_to(room_id))
        for _, row in self._unsaved:
            for unread in row.unread:
                if unread.room_id == room_id:
                    self._tails.add(unread)

    def _stored_up_to(self, room_id: RoomID) -> int:
        return self._stored.get(self._writer_of(room_id))

    def _must_store_first(self, room_ids: Collection[RoomID]) -> bool:
        """Tell whether the database does not know what it will be asked about."""
        rooms = set(room_ids)
        for room_id in room_ids:
            tail = self._tails.get(room_id)
            if tail is not None and tail.floor > self._stored_up_to(room_id):
                return True
        return any(one[0] in rooms for _, row in self._unsaved for one in row.removed)

    async def _learn_progress(self) -> None:
        if trio.current_time() < self._guessing_until_s:
            return
        try:
            progress = await self._store.flush()
        except (RpcUnavailable, RpcFailed):
            await self._guess_progress()
            return
        if self._is_guess:
            # What was told while the evaluating process could not be asked may be missing.
            self._is_guess = False
            self._forget()
        self._reached(VectorPosition.parse(progress.evaluated))
        self._note_stored(progress.stored)
        self._knows_progress = True

    async def _guess_progress(self) -> None:
        """Go by what is stored: while nobody evaluates, there is nothing else to know."""
        stored = await self._database.read(storage.progress)
        self._is_guess, self._knows_progress = True, False
        self._guessing_until_s = trio.current_time() + PATIENCE_S
        if stored is not None:
            self._reached(VectorPosition.parse(stored))

    def _reached(self, stored: VectorPosition) -> None:
        self._stored = self._stored.merge(stored)
        self._evaluated = self._evaluated.merge(stored)

    def _forget(self) -> None:
        self._tails.clear()
        self._marks.clear()
        self._counts.clear()

    def _begin(
        self, user_id: UserID, room_ids: list[RoomID]
    ) -> tuple[list[Span], dict[RoomID, _Counted]]:
        """Say what the database has to count, up to the floor of each room."""
        spans: list[Span] = []
        begun: dict[RoomID, _Counted] = {}
        for room_id in room_ids:
            tail = self._tails.get(room_id)
            read = self._read_nowait(user_id, room_id)
            if tail is None or read is None:
                continue
            begun[room_id] = _Counted(read, tail.floor, tail.version, {})
            if read.everywhere < tail.floor:
                spans.append(Span(room_id, EVERYWHERE, read.everywhere, tail.floor, 1))
                for thread_id, place in read.threads.items():
                    upto = min(place, tail.floor)
                    if upto > read.everywhere:
                        # Of this thread more is read than of the room.
                        spans.append(Span(room_id, thread_id, read.everywhere, upto, -1))
        return spans, begun

    def _read_nowait(self, user_id: UserID, room_id: RoomID) -> ReadUpTo | None:
        receipts = self._receipts.of_room_nowait(room_id)
        marks = self._marks.of_room_nowait(user_id, room_id)
        if receipts is None or marks is None:
            return None
        told = receipts.read_up_to(user_id)
        everywhere = max(told.everywhere, marks.get(EVERYWHERE, told.everywhere))
        threads = dict(told.threads)
        for thread_id, place in marks.items():
            if thread_id != EVERYWHERE and place > threads.get(thread_id, everywhere):
                threads[thread_id] = place
        return ReadUpTo(everywhere, threads)

    # Following the evaluation

    def _is_behind(self) -> bool:
        if self._may_be_behind:
            evaluated = self._evaluated
            self._may_be_behind = any(
                seen > evaluated.get(writer) for writer, seen in self._seen.items()
            )
        return self._may_be_behind

    async def _wait_for_evaluation(self) -> None:
        if trio.current_time() < self._impatient_until_s:
            return
        with trio.move_on_after(EVALUATION_S) as waiting:
            while self._is_behind():
                await self._advanced.wait()
        if waiting.cancelled_caught:
            self._impatient_until_s = trio.current_time() + PATIENCE_S

    def _note_stored(self, stored: int) -> None:
        while self._unsaved and self._unsaved[0][0] <= stored:
            _, row = self._unsaved.popleft()
            self._stored = self._stored.advance(row.writer, row.upto)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if batch.rows:
            self._seen[batch.writer] = batch.rows[-1][0]
            self._may_be_behind = True

    def _on_unread(self, batch: Batch[UnreadRow]) -> None:
        if batch.reset:
            # The evaluation began anew, and may tell again what it had not stored.
            self._forget()
            self._unsaved.clear()
            self._evaluated = self._stored = VectorPosition()
            self._may_be_behind = True
            self._knows_progress = False
            self._guessing_until_s = 0.0
        for position, row in batch.rows:
            self._on_row(position, row)
        self._advanced.set()
        self._advanced = trio.Event()

    def _on_row(self, position: int, row: UnreadRow) -> None:
        self._evaluated = self._evaluated.advance(row.writer, row.upto)
        for unread in row.unread:
            self._tails.add(unread)
        for user_id, room_id, thread_id, stream_id in row.marks:
            self._marks.put(UserID(user_id), RoomID(room_id), thread_id, stream_id)
        for room_id, stream_id in row.removed:
            self._tails.remove(RoomID(room_id), stream_id)
        self._unsaved.append((position, row))
        self._note_stored(row.stored)


def _still_holds(counted: _Counted, tail: Tail) -> bool:
    return counted.version == tail.version and counted.upto >= tail.floor


def _read_on(counted: _Counted, tail: Tail, user_id: UserID, read: ReadUpTo) -> bool:
    """Count again the threads that a user has read further, if the tail alone tells them."""
    before = counted.read
    if read.everywhere != before.everywhere:
        return False
    moved = {
        thread_id
        for thread_id in read.threads.keys() | before.threads.keys()
        if read.of_thread(thread_id) != before.of_thread(thread_id)
    }
    if any(read.of_thread(thread_id) < tail.floor for thread_id in moved):
        return False
    _add_news(counted, tail, user_id)
    counts = tail.count(user_id, tail.floor, read.of_thread) if moved else {}
    for thread_id in moved:
        counted.threads.pop(thread_id, None)
        if thread_id in counts:
            counted.threads[thread_id] = counts[thread_id]
    counted.read, counted.shown = read, None
    return True


def _add_news(counted: _Counted, tail: Tail, user_id: UserID) -> None:
    if not tail.rows or tail.rows[-1].stream_id <= counted.upto:
        return
    news = tail.count(user_id, counted.upto, counted.read.of_thread)
    counted.upto = tail.rows[-1].stream_id
    if not news:
        return
    counted.shown = None
    for thread_id, (notify, highlight) in news.items():
        before = counted.threads.get(thread_id, (0, 0))
        counted.threads[thread_id] = (before[0] + notify, before[1] + highlight)


def _shown(counted: _Counted) -> RoomCounts:
    if counted.shown is None:
        counts = {
            thread_id: Count(max(0, notify), max(0, highlight))
            for thread_id, (notify, highlight) in counted.threads.items()
        }
        main = counts.pop(MAIN_TIMELINE, Count())
        threads = {EventID(root): count for root, count in counts.items() if any(count)}
        counted.shown = RoomCounts(main, threads)
    return counted.shown
