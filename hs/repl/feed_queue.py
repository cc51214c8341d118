"""A queue between the feed and the task that works on what the feed brings.

Feed callbacks are synchronous and must be quick, so work that waits for something is queued and
done by a duty. Rules, and why nothing is lost:

- An entry that `put` has accepted is, until its work is done, in one of two places: waiting or
  in hand. `batch` moves the first entries from waiting to in hand. When its block ends without an
  exception, the work is done and they are gone. When it raises or is cancelled, they go back to
  the front, in their order. So whoever serves the queue next begins with them: the work of an
  entry is done at least once, and repeated if it failed after it had an effect.
- No wake-up is lost. The queue belongs to the trio thread, `put` never awaits, and `wait` makes
  its event after it has seen that nothing waits, with no await in between. So an entry is put
  either before that look, which then sees it, or after it, and then sets the event.
- An entry that equals a waiting one is not added: its work begins after both were put. An entry
  that equals one in hand is added, because that work may have read before this one was put.
- The bound counts entries that wait and entries in hand, so entries that go back always fit.
  At the bound something is given up, which `WhenFull` names; `dropped` counts it.

The start. A queue that is closed accepts nothing. `opened` empties it and opens it. A duty that
reads the feed's position after that, without an await in between, misses nothing and takes nothing
for new that is old: the feed advances its position right after the callbacks of a batch, and a row
of a table stream is committed before it is published. So a row is either covered by that position,
and a read that begins now finds it in its table, or it is put into the queue. A row that is found
in both, because the read came after its commit, is recognised by its position
(`VectorPosition.covers`).
"""

import enum
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, NoReturn, TypeVar

import trio

from hs.core.errors import Unavailable
from hs.core.stream_def import StreamDef
from hs.lib.time_slice import TimeSlice
from hs.repl.feed import Batch, Feed, Interest

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger(__name__)


class WhenFull(enum.Enum):
    """What a full queue gives up when another entry arrives."""

    DROP_OLDEST = "dropped its oldest entries"
    DROP_NEWEST = "dropped the entry that arrived"
    START_OVER = "dropped all entries, its duty starts over"  # by QueueOverflow


class _State(enum.Enum):
    OPEN = enum.auto()
    CLOSED = enum.auto()  # nobody wants the entries
    OVERFLOWN = enum.auto()  # closed until it is opened again, and its duty gets QueueOverflow


_OPEN: Final = _State.OPEN


class QueueOverflow(Unavailable):
    """So much is waiting that it is to be read from the tables instead."""

    def __init__(self, name: str) -> None:
        super().__init__(f"queue {name} is full, so its entries are to be read from the tables")


class FeedQueue(Generic[T]):
    """A bounded queue of different entries, filled by feed callbacks and served by one task.

    How a duty restarts after a failure depends on where its entries are stored:

    - Nowhere else: leave the queue open from its construction on. Entries then gather before the
      first run and between runs, and the batch that failed comes first. An entry whose work fails
      for a reason that stays would stop the queue, so catch what concerns one entry only, and
      count other failures (`EntryRetries`):

          self._queue = FeedQueue("guests", MAX_ROOMS, WhenFull.DROP_OLDEST)
          self._queue.follow(feed, EVENTS, self._closed_rooms)

          async def run(self) -> None:
              await self._queue.serve(self._remove_guests)

    - In tables, with a stored position: begin each run with what is stored. Entries of earlier
      runs are not needed, because the read finds them:

          self._queue = FeedQueue("rows", MAX_BATCHES, WhenFull.START_OVER, is_open=False)
          self._queue.follow(feed, EVENTS, lambda batch: (batch,))

          async def run(self) -> None:
              with self._queue.opened():
                  begin = self._feed.position(EVENTS)  # no await since `opened`
                  await self._catch_up(begin)          # reads at least what `begin` covers
                  await self._queue.serve(self._work)  # skips what was read already

    An entry may be in hand and wait again, so a queue that must not drop any of n possible entries
    needs a bound of 2 * n.

    `size` says for how much an entry counts in the bound and in `waiting`; it must not change
    while the entry is in the queue. Entries are hashable; a Batch is hashed by its identity.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        when_full: WhenFull,
        *,
        is_open: bool = True,
        size: Callable[[T], int] | None = None,
    ) -> None:
        self.dropped = 0
        self._name = name
        self._limit = limit
        self._when_full = when_full
        self._size = size
        self._state = _OPEN if is_open else _State.CLOSED
        self._entries: OrderedDict[T, None] = OrderedDict()
        self._in_hand: list[T] = []
        self._total = 0
        self._arrived = trio.Event()

    @property
    def waiting(self) -> int:
        """The size of all entries that wait or are in hand; for metrics."""
        return self._total

    def __bool__(self) -> bool:
        """Return whether any work is left: waiting, in hand, or to be read after an overflow."""
        return bool(self._entries or self._in_hand or self._state is _State.OVERFLOWN)

    # The feed's side

    def follow(
        self,
        feed: Feed,
        stream: StreamDef[R],
        select: Callable[[Batch[R]], Iterable[T]],
        interest: Interest = Interest.ALL,
    ) -> None:
        """Put into the queue what `select` makes of each batch that arrives while it is open.

        `select` runs inside the delivery: it must be quick and must not raise.
        """

        put = self.put

        def on_batch(batch: Batch[R]) -> None:
            if self._state is _OPEN:
                for entry in select(batch):
                    put(entry)

        feed.subscribe(stream, on_batch, interest)

    def put(self, entry: T) -> None:
        """Add an entry unless an equal one is waiting or the queue is closed."""
        entries = self._entries
        if self._state is not _OPEN or entry in entries:
            return
        if not entries:
            self._arrived.set()
        size = 1 if self._size is None else self._size(entry)
        if self._total + size <= self._limit or self._make_room(size):
            entries[entry] = None
            self._total += size

    # The duty's side

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Empty the queue and keep it open during the block; afterwards it is closed."""
        self._clear()
        self._state = _OPEN
        try:
            yield
        finally:
            self._clear()
            self._state = _State.CLOSED

    async def wait(self) -> None:
        """Wait until an entry is waiting; returns without yielding if one is already.

        Raises: QueueOverflow, until the queue is opened again.
        """
        while not self._entries:
            if self._state is _State.OVERFLOWN:
                raise QueueOverflow(self._name)
            self._arrived = trio.Event()
            await self._arrived.wait()

    @contextmanager
    def batch(self, at_most: int = 1) -> Iterator[list[T]]:
        """Take the first entries for the length of the block; they go back if it raises.

        Only one block at a time.
        """
        assert not self._in_hand, f"queue {self._name} is served by two tasks"
        entries = self._in_hand = self._take(at_most)
        try:
            yield list(entries)
        except BaseException:
            self._put_back()
            raise
        self._forget_in_hand()

    async def serve(
        self,
        work: Callable[[list[T]], Awaitable[Any]],
        *,
        at_most: int = 1,
        gather_s: float = 0.0,
    ) -> NoReturn:
        """Wait for entries and work on them for ever, at most so many at once.

        With `gather_s`, more entries are awaited for that long before each batch is taken. Other
        tasks run between batches, also if `work` never yields.
        Raises: what `work` raises, and QueueOverflow.
        """
        time_slice = TimeSlice()
        while True:
            await self.wait()
            if gather_s:
                await trio.sleep(gather_s)
            if self._entries:  # no overflow came meanwhile
                with self.batch(at_most) as entries:
                    await work(entries)
            await time_slice.yield_if_over()

    async def serve_waiting(
        self, work: Callable[[list[T]], Awaitable[Any]], *, at_most: int = 1
    ) -> None:
        """Work on entries until none is waiting; other tasks run between batches."""
        time_slice = TimeSlice()
        while self._entries:
            with self.batch(at_most) as entries:
                await work(entries)
            await time_slice.yield_if_over()

    def _size_of(self, entry: T) -> int:
        return 1 if self._size is None else self._size(entry)

    def _take(self, at_most: int) -> list[T]:
        taken: list[T] = []
        while self._entries and len(taken) < at_most:
            taken.append(self._entries.popitem(last=False)[0])
        return taken

    def _put_back(self) -> None:
        if self._state is _State.OVERFLOWN:
            self._forget_in_hand()
            return
        for entry in reversed(self._in_hand):
            if entry in self._entries:
                # An equal entry came meanwhile, and its work does for both.
                self._total -= self._size_of(entry)
            self._entries[entry] = None
            self._entries.move_to_end(entry, last=False)
        self._in_hand = []

    def _forget_in_hand(self) -> None:
        for entry in self._in_hand:
            self._total -= self._size_of(entry)
        self._in_hand = []

    def _make_room(self, size: int) -> bool:
        """Drop entries as `WhenFull` says; return whether the entry that arrived may be added."""
        before = len(self._entries)
        if self._when_full is WhenFull.START_OVER:
            self._state = _State.OVERFLOWN
            self._total -= sum(map(self._size_of, self._entries))
            self._entries.clear()
        elif self._when_full is WhenFull.DROP_OLDEST:
            while self._entries and self._total + size > self._limit:
                entry, _ = self._entries.popitem(last=False)
                self._total -= self._size_of(entry)
        is_added = self._state is _OPEN and self._total + size <= self._limit
        self._note_dropped(before - len(self._entries) + (not is_added))
        return is_added

    def _note_dropped(self, count: int) -> None:
        before, self.dropped = self.dropped, self.dropped + count
        if before.bit_length() != self.dropped.bit_length():
            # Each time that twice as many are gone, so that the log stays short.
            message = "queue %s is full and %s; %d were dropped so far"
            log.warning(message, self._name, self._when_full.value, self.dropped)

    def _clear(self) -> None:
        self._entries.clear()
        self._in_hand = []
        self._total = 0
