"""The feed of one process: delivers the rows of all streams, in order, to subscribers.

Rules:

- It belongs to the trio thread, and delivery is synchronous: no task runs in the middle of it.
- The rows of one writer arrive in the order of their positions. Between writers and between
  streams there is no order.
- A position is reported, and waiters for it are woken, only after all subscribers have had the
  rows up to it. During a delivery the feed reports the position before it.
- A batch that a subscriber publishes during a delivery is queued until all subscribers have had
  the present one.
- A subscriber says which rows it takes (`Interest`). Those that it does without are left out of its
  batches, and plain rows of other processes that nobody here takes are not even decoded.
"""

import enum
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import immutables
import trio

from hs.core.positions import VectorPosition
from hs.core.stream_def import StreamDef

R = TypeVar("R")
log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class Batch(Generic[R]):
    """The rows that one writer added to a stream between two positions, in one commit or several.

    With `reset`, earlier rows were lost for good: the writer of a memory stream restarted, or this
    process missed more rows than the writer remembers. Subscribers drop what they derived from
    the writer's rows; `rows` are all that the writer remembers. If a reset has a `prev`, the rows
    after that position are complete but for those that later rows of the same key replaced.
    """

    stream: StreamDef[R]
    writer: str
    prev: int
    position: int
    rows: list[tuple[int, R]]
    reset: bool = False


class Interest(enum.Enum):
    """Which rows of a stream a subscriber takes; see `StreamDef.is_plain`."""

    ALL = enum.auto()
    OWN = enum.auto()  # plain ones at least if this process wrote them, and all others
    CHANGES = enum.auto()  # those that are not plain
    POSITIONS = enum.auto()  # only that a writer went on; the rows may be missing


@attrs.define(eq=False)
class _Waiter:
    position: int
    event: trio.Event


@attrs.define(eq=False)
class _StreamState:
    positions: dict[str, int] = attrs.Factory(dict)
    epochs: dict[str, int] = attrs.Factory(dict)
    # The subscribers, and whether they take plain rows.
    callbacks: tuple[tuple[Callable[[Batch[Any]], None], bool], ...] = ()
    position_callbacks: tuple[Callable[[Batch[Any]], None], ...] = ()
    needs_plain: bool = False
    waiters: dict[str, list[_Waiter]] = attrs.Factory(dict)
    vector: VectorPosition | None = None


@attrs.define(eq=False)
class Feed:
    """The subscribers, positions and waiters of one process.

    `moves` is the number of times that any position changed. A value that was computed from
    positions is valid as long as it stays the same. `takes_plain` is set from the moment on when a
    subscriber takes the plain rows that other processes wrote to some stream.
    """

    moves: int = 0
    takes_plain: trio.Event = attrs.Factory(trio.Event)
    _states: defaultdict[str, _StreamState] = attrs.Factory(lambda: defaultdict(_StreamState))
    _queue: deque[Batch[Any]] = attrs.Factory(deque)
    _delivering: bool = False

    def subscribe(
        self,
        stream: StreamDef[R],
        callback: Callable[[Batch[R]], None],
        interest: Interest = Interest.ALL,
    ) -> None:
        """Call `callback` with every batch of `stream` that has rows for it or is a reset.

        With `Interest.POSITIONS` it is called with every batch, after the others.

        It runs within the delivery, so it must be quick. Callbacks run in the order of their
        subscriptions. If one raises, the error is logged and the others are called.
        """
        state = self._states[stream.name]
        if interest is Interest.POSITIONS:
            state.position_callbacks = (*state.position_callbacks, callback)
        else:
            state.callbacks = (*state.callbacks, (callback, interest is not Interest.CHANGES))
            state.needs_plain = state.needs_plain or interest is Interest.ALL
            if state.needs_plain and stream.is_plain is not None:
                self.takes_plain.set()

    def has_subscribers(self, stream: StreamDef[Any]) -> bool:
        """Return whether the stream has subscribers, so that its rows must be decoded."""
        return bool(self._states[stream.name].callbacks)

    def needs_plain(self, stream: StreamDef[Any]) -> bool:
        """Return whether plain rows that other processes wrote must be decoded, too."""
        return self._states[stream.name].needs_plain

    def position(self, stream: StreamDef[Any]) -> VectorPosition:
        """Return the position up to which all subscribers have had all rows."""
        state = self._states[stream.name]
        if state.vector is None:
            state.vector = _vector(state.positions)
        return state.vector

    def position_of(self, stream: StreamDef[Any], writer: str) -> int | None:
        """Return the position of one writer; None if this process does not follow it yet."""
        return self._states[stream.name].positions.get(writer)

    def positions_of(self, stream: StreamDef[Any]) -> Mapping[str, int]:
        """Return the position of each known writer of the stream."""
        return self._states[stream.name].positions

    def settled(self, batch: Batch[Any]) -> int:
        """Return up to where no row of any writer is missing, once a batch has been delivered.

        For a reader that stores one number for all writers of a table stream: it may then find
        rows of faster writers again, and misses none of slower ones.
        """
        positions = self._states[batch.stream.name].positions
        others = [seen for writer, seen in positions.items() if writer != batch.writer]
        return min([batch.position, *others])

    def epoch(self, stream: StreamDef[Any], writer: str) -> int:
        """Return the epoch of a memory writer; positions below it are of an earlier life."""
        return self._states[stream.name].epochs.get(writer, 0)

    def begin_epoch(self, stream: StreamDef[Any], writer: str, epoch: int) -> None:
        """Set the epoch of a memory writer."""
        self._states[stream.name].epochs[writer] = epoch

    def start_at(self, stream: StreamDef[Any], writer: str, position: int) -> None:
        """Raise the position of a writer without a delivery; a lower one is ignored."""
        state = self._states[stream.name]
        if position > state.positions.get(writer, -1):
            self._advance(state, writer, position)

    def deliver(self, batch: Batch[Any]) -> None:
        """Deliver a batch to the subscribers, now or, during a delivery, right after it."""
        self._queue.append(batch)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._queue:
                self._deliver_now(self._queue.popleft())
        finally:
            self._delivering = False

    async def wait_for(
        self, stream: StreamDef[Any], writer: str, position: int, timeout_s: float
    ) -> bool:
        """Wait until the rows of `writer` up to `position` were delivered; False on timeout."""
        state = self._states[stream.name]
        if state.positions.get(writer, -1) >= position:
            return True
        waiter = _Waiter(position, trio.Event())
        waiting = state.waiters.setdefault(writer, [])
        waiting.append(waiter)
        with trio.move_on_after(timeout_s):
            await waiter.event.wait()
        if waiter.event.is_set():
            return True
        waiting.remove(waiter)
        return False

    async def wait_for_position(
        self, stream: StreamDef[Any], position: VectorPosition, timeout_s: float
    ) -> bool:
        """Wait until the rows that `position` covers were delivered; False on timeout."""
        writers = set(self._states[stream.name].positions) | set(position.ahead)
        return await self.wait_for_all(
            [(stream, writer, position.get(writer)) for writer in writers], timeout_s
        )

    async def wait_for_all(
        self, targets: Iterable[tuple[StreamDef[Any], str, int]], timeout_s: float
    ) -> bool:
        """Wait for several positions with one timeout, as `wait_for` does for one."""
        deadline = trio.current_time() + timeout_s
        for stream, writer, position in targets:
            left_s = max(0.0, deadline - trio.current_time())
            if not await self.wait_for(stream, writer, position, left_s):
                return False
        return True

    def _deliver_now(self, batch: Batch[Any]) -> None:
        state = self._states[batch.stream.name]
        if (batch.rows or batch.reset) and state.callbacks:
            changes = _without_plain(batch)
            for callback, takes_plain in state.callbacks:
                given = batch if takes_plain else changes
                if given is not None:
                    _call(callback, given)
        for callback in state.position_callbacks:
            _call(callback, batch)
        if batch.reset or batch.position > state.positions.get(batch.writer, -1):
            self._advance(state, batch.writer, batch.position)

    def _advance(self, state: _StreamState, writer: str, position: int) -> None:
        state.positions[writer] = position
        state.vector = None
        self.moves += 1
        waiting = state.waiters.get(writer)
        if waiting:
            state.waiters[writer] = [waiter for waiter in waiting if waiter.position > position]
            for waiter in waiting:
                if waiter.position <= position:
                    waiter.event.set()


def _call(callback: Callable[[Batch[Any]], None], batch: Batch[Any]) -> None:
    try:
        callback(batch)
    except Exception:  # the other subscribers must get the rows all the same
        log.exception("a subscriber of stream %s failed on a batch", batch.stream.name)


def is_plain(batch: Batch[Any]) -> bool:
    """Return whether all rows are plain ones, which a process may do without."""
    is_plain_row = batch.stream.is_plain
    return is_plain_row is not None and all(is_plain_row(row) for _, row in batch.rows)


def _without_plain(batch: Batch[R]) -> Batch[R] | None:
    """Return a batch without its plain rows; None if nothing is left of it."""
    is_plain = batch.stream.is_plain
    if is_plain is None:
        return batch
    rows = [numbered for numbered in batch.rows if not is_plain(numbered[1])]
    if len(rows) == len(batch.rows):
        return batch
    return attrs.evolve(batch, rows=rows) if rows or batch.reset else None


def _vector(positions: dict[str, int]) -> VectorPosition:
    if not positions:
        return VectorPosition(0, immutables.Map())
    floor = min(positions.values())
    ahead = {writer: position for writer, position in positions.items() if position > floor}
    return VectorPosition(floor, immutables.Map(ahead))
