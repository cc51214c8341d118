"""The drain of a process: it accepts no more work, and the requests that are running finish.

Rules:

- `started` is set once and never reset. Anything that waits for something to happen (a long poll,
  an idle connection, a download of media that is not uploaded yet) also waits for this event and
  then responds early, so a drain takes only as long as the slowest computation.
- `in_flight` counts requests from their head to the last byte of the response, long polls
  included. It is changed without an await, so wait_idle() cannot miss the last one. Requests that
  arrive after the drain has begun are counted too; wait_idle() checks again after each wake-up.
"""

import trio


class Drain:
    """Whether a process is draining, and how many requests are running in it."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.in_flight = 0
        self._idle = trio.Event()

    @property
    def is_draining(self) -> bool:
        """Whether the drain has begun."""
        return self.started.is_set()

    def begin(self) -> None:
        """Begin the drain; idempotent."""
        self.started.set()
        if self.in_flight == 0:
            self._idle.set()

    def enter(self) -> None:
        """Count a request that begins."""
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request that has ended."""
        self.in_flight -= 1
        if self.in_flight == 0 and self.started.is_set():
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no request is running; the drain must have begun."""
        while self.in_flight:
            if self._idle.is_set():
                # It was set at an earlier moment without requests.
                self._idle = trio.Event()
            await self._idle.wait()
