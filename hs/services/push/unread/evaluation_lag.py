"""Whether the evaluation is behind the events that this process has seen, and waiting for it."""

from typing import Final

import trio

from hs.core.positions import VectorPosition

WAIT_S: Final = 0.5
"""How long a response waits for the evaluation of events that it will show."""

PATIENCE_S: Final = 5.0
"""How long no response waits after the evaluation was too slow."""


class EvaluationLag:
    """The events that this process has seen, compared with those that were evaluated."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._evaluated = VectorPosition()
        self._may_be_behind = True
        self._impatient_until_s = 0.0
        self._advanced = trio.Event()

    @property
    def evaluated(self) -> VectorPosition | None:
        """The position up to which events have been evaluated; None if all seen events have."""
        return self._evaluated if self._is_behind() else None

    def note_seen(self, writer: str, stream_id: int) -> None:
        """Note that this process has seen a writer's events up to a stream ID."""
        self._seen[writer] = stream_id
        self._may_be_behind = True

    def note_evaluated(self, evaluated: VectorPosition) -> None:
        """Note that the events up to a position have been evaluated."""
        self._evaluated = self._evaluated.merge(evaluated)

    def advance(self, writer: str, upto: int) -> None:
        """Note that the events of one writer have been evaluated, and wake who waits for it."""
        self._evaluated = self._evaluated.advance(writer, upto)
        self._wake()

    def reset(self) -> None:
        """Forget what was evaluated, as the evaluation began anew."""
        self._evaluated = VectorPosition()
        self._may_be_behind = True
        self.wait_again()
        self._wake()

    def wait_again(self) -> None:
        """Let responses wait again, as the evaluating process has answered."""
        self._impatient_until_s = 0.0

    async def wait(self) -> None:
        """Wait until all events seen so far have been evaluated, but at most WAIT_S.

        After a wait was in vain, return at once for PATIENCE_S: the evaluating process is
        probably being restarted.
        """
        if not self._is_behind() or trio.current_time() < self._impatient_until_s:
            return
        with trio.move_on_after(WAIT_S) as scope:
            while self._is_behind():
                await self._advanced.wait()
        if scope.cancelled_caught:
            self._impatient_until_s = trio.current_time() + PATIENCE_S

    def _is_behind(self) -> bool:
        if self._may_be_behind:
            evaluated = self._evaluated
            self._may_be_behind = any(
                seen > evaluated.get(writer) for writer, seen in self._seen.items()
            )
        return self._may_be_behind

    def _wake(self) -> None:
        self._advanced.set()
        self._advanced = trio.Event()
