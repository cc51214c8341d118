"""Leaving in order: told once, everybody who waits answers early and no new work is taken."""

import trio


class Drain:
    """The state of leaving of one process, and the count of requests still running."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.in_flight = 0
        self._idle = trio.Event()

    @property
    def is_draining(self) -> bool:
        """Tell whether this process is on its way out."""
        return self.started.is_set()

    def begin(self) -> None:
        """Start to leave; idempotent."""
        self.started.set()
        if self.in_flight == 0:
            self._idle.set()

    def enter(self) -> None:
        """Count a request in."""
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if self.in_flight == 0 and self.started.is_set():
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait, while draining, until no request runs."""
        while self.in_flight:
            self._idle = trio.Event()
            await self._idle.wait()
