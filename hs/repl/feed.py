"""The feed of one process: every change of every stream, in order, to whoever subscribed.

Belongs to the trio thread. Delivery is synchronous; a position is reported only after all
subscribers have had everything up to it.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import immutables
import trio

from hs.core.positions import VectorPosition
from hs.repl.streams import StreamDef

R = TypeVar("R")
log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class Batch(Generic[R]):
    """What one commit of one writer added to a stream.

    `reset` says that rows were lost for good (the writer of a memory stream restarted, or a
    reader was away too long): drop what you derived from this writer; `rows` is all there is now.
    A reset that has a `prev` lacks nothing behind it, but what later rows replaced.
    """

    stream: StreamDef[R]
    writer: str
    prev: int
    position: int
    rows: list[tuple[int, R]]
    reset: bool = False


@attrs.define(eq=False)
class _Waiter:
    position: int
    event: trio.Event


@attrs.define(eq=False)
class _StreamState:
    positions: dict[str, int] = attrs.Factory(dict)
    epochs: dict[str, int] = attrs.Factory(dict)
    callbacks: tuple[Callable[[Batch[Any]], None], ...] = ()
    waiters: dict[str, list[_Waiter]] = attrs.Factory(dict)
    vector: VectorPosition | None = None


@attrs.define(eq=False)
class Feed:
    """Delivers batches in order, remembers positions, wakes those who wait for one.

    `moves` counts how often any position moved: what was derived from positions holds until then.
    """

    moves: int = 0
    _states: dict[str, _StreamState] = attrs.Factory(dict)
    _queue: deque[Batch[Any]] = attrs.Factory(deque)
    _delivering: bool = False

    def subscribe(self, stream: StreamDef[R], callback: Callable[[Batch[R]], None]) -> None:
        """Have `callback` called with every batch of `stream` that has rows, or is a reset.

        It runs inside the delivery: it must be quick and must not raise.
        """
        state = self._state(stream.name)
        state.callbacks = (*state.callbacks, callback)

    def wants(self, stream: StreamDef[Any]) -> bool:
        """Tell whether anybody subscribed, so that rows are worth decoding."""
        return bool(self._state(stream.name).callbacks)

    def position(self, stream: StreamDef[Any]) -> VectorPosition:
        """Give the position up to which all subscribers have had everything."""
        state = self._state(stream.name)
        if state.vector is None:
            state.vector = _vector(state.positions)
        return state.vector

    def position_of(self, stream: StreamDef[Any], writer: str) -> int | None:
        """Give how far one writer has been followed; None when it was never heard of."""
        return self._state(stream.name).positions.get(writer)

    def positions_of(self, stream: StreamDef[Any]) -> Mapping[str, int]:
        """Give how far each writer of the stream has been followed."""
        return self._state(stream.name).positions

    def epoch(self, stream: StreamDef[Any], writer: str) -> int:
        """Give where the present life of a memory writer began; a position below it is stale."""
        return self._state(stream.name).epochs.get(writer, 0)

    def begin_epoch(self, stream: StreamDef[Any], writer: str, epoch: int) -> None:
        """Note where the present life of a memory writer began."""
        self._state(stream.name).epochs[writer] = epoch

    def start_at(self, stream: StreamDef[Any], writer: str, position: int) -> None:
        """Move on to a position of a writer, delivering nothing; never goes back."""
        state = self._state(stream.name)
        if position > state.positions.get(writer, -1):
            self._advance(state, writer, position)

    def deliver(self, batch: Batch[Any]) -> None:
        """Hand a batch to the subscribers, now; from within a delivery: right after it."""
        self._queue.append(batch)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._queue:
                self._deliver_one(self._queue.popleft())
        finally:
            self._delivering = False

    async def wait_for(
        self, stream: StreamDef[Any], writer: str, position: int, timeout_s: float
    ) -> bool:
        """Wait until everything by `writer` up to `position` was delivered; False: too slow."""
        state = self._state(stream.name)
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
        """Wait until this process has seen all that the holder of `position` had seen."""
        writers = set(self._state(stream.name).positions) | set(position.ahead)
        return await self.wait_for_all(
            [(stream, writer, position.get(writer)) for writer in writers], timeout_s
        )

    async def wait_for_all(
        self, targets: Iterable[tuple[StreamDef[Any], str, int]], timeout_s: float
    ) -> bool:
        """Wait as `wait_for` does, for several writers together."""
        deadline = trio.current_time() + timeout_s
        for stream, writer, position in targets:
            left_s = max(0.0, deadline - trio.current_time())
            if not await self.wait_for(stream, writer, position, left_s):
                return False
        return True

    def _state(self, name: str) -> _StreamState:
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = _StreamState()
        return state

    def _deliver_one(self, batch: Batch[Any]) -> None:
        state = self._state(batch.stream.name)
        if batch.rows or batch.reset:
            for callback in state.callbacks:
                try:
                    callback(batch)
                except Exception:  # one subscriber's bug must not cost the others their rows
                    log.exception("a subscriber of stream %s failed", batch.stream.name)
        if batch.reset or batch.position > state.positions.get(batch.writer, -1):
            self._advance(state, batch.writer, batch.position)

    def _advance(self, state: _StreamState, writer: str, position: int) -> None:
        state.positions[writer] = position
        state.vector = None
        self.moves += 1
        waiting = state.waiters.get(writer)
        if waiting:
            state.waiters[writer] = [one for one in waiting if one.position > position]
            for one in waiting:
                if one.position <= position:
                    one.event.set()


def _vector(positions: dict[str, int]) -> VectorPosition:
    if not positions:
        return VectorPosition(0, immutables.Map())
    floor = min(positions.values())
    ahead = {writer: at for writer, at in positions.items() if at > floor}
    return VectorPosition(floor, immutables.Map(ahead))
