"""One process of the server under supervision: starts, restarts, hand-overs, and its stop.

Rules:

- A name has one process that serves. At a hand-over the next one is built first and waits on
  standby; then the present one is asked to stop, answers what has reached it, and ends; then the
  next one takes the name. Connections made meanwhile wait in the sockets, which never close.
- A process that ends by itself is started again after a pause that doubles with each failure in
  close succession. After FAILURES in a row before it was ever ready, or if its configuration is
  wrong, it is given up until someone asks for a restart.
- A process that has given no sign of life for HUNG_S is killed, and so counts as failed.
"""

import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from hs.nursery.supervision.forks import Life
from hs.settings.errors import EXIT_BAD_CONFIG

FAILURES: Final = 5
FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0
HUNG_S: Final = 60.0
STOP_S: Final = 60.0
LOOK_S: Final = 5.0

Fork = Callable[[str], Awaitable[Life]]
"""Forks the process of this name."""

log = logging.getLogger(__name__)


class ProcessGivenUp(Exception):
    """A process failed too often; the message says why. `status` is that of the supervisor."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@attrs.define(eq=False)
class ManagedProcess:
    """A process of the server by name, through all its lives."""

    name: str
    _fork: Fork
    life: Life | None = None
    restarts: int = 0
    failures: int = 0
    given_up: str = ""  # why
    _was_started: bool = False
    _stopping: bool = False
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _begun: trio.Event = attrs.field(factory=trio.Event)
    _moving: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def state(self) -> str:
        """Return what the process does, in a word or two."""
        if self.given_up:
            return "given up"
        if self.life is None or self.life.has_ended:
            return "stopped" if self._stopping else "waiting to restart"
        if self.life.is_stopping:
            return "stopping"
        return "ready" if self.life.is_ready else "starting"

    @property
    def is_ready(self) -> bool:
        """Whether the process serves."""
        return self.state == "ready"

    async def start(self) -> None:
        """Start the process for the first time, and wait until it is ready.

        Raises: ProcessGivenUp, if it fails again and again.
        """
        while not self.is_ready:
            life = await self._begin()
            await life.settled.wait()
            if life.has_ended:
                await self._after_failure(life)
                if self.given_up:
                    status = EXIT_BAD_CONFIG if life.status == EXIT_BAD_CONFIG else 1
                    raise ProcessGivenUp(self.given_up, status)
        self._was_started = True

    async def run(self) -> None:
        """Keep the process running, once it was started, until it is stopped."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_hung)
            while not self._stopping:
                life = self.life
                assert life is not None
                await life.ended.wait()
                if self._is_wanted(life):
                    await self._after_failure(life)
                if self._is_wanted(life):
                    await self._begin()
            nursery.cancel_scope.cancel()

    def _is_wanted(self, life: Life) -> bool:
        """Return whether this is the life to replace: no hand-over and no stop has begun."""
        return self.life is life and not self._stopping

    async def _begin(self) -> Life:
        life = self.life = await self._fork(self.name)
        life.go()
        self._begun.set()
        self._begun = trio.Event()
        return life

    async def _after_failure(self, life: Life) -> None:
        """Count a failure and wait before the next attempt, or until asked to restart."""
        assert life.status is not None
        lived_s = trio.current_time() - life.began_at
        self.failures = 1 if life.is_ready and lived_s >= STABLE_S else self.failures + 1
        self.restarts += 1
        is_hopeless = life.status == EXIT_BAD_CONFIG
        if is_hopeless or (self.failures >= FAILURES and not life.is_ready):
            again = "" if is_hopeless else f" {self.failures} times in a row"
            self.given_up = f"{self.name} failed{again}, {life.cause()}"
            log.critical("%s; `hs restart %s` tries again", self.given_up, self.name)
            if self._was_started:
                await self._wake.wait()
            return
        pause_s = min(FIRST_PAUSE_S * 2 ** (self.failures - 1), LAST_PAUSE_S)
        log.error("%s ended, %s; restarting in %.1f s", self.name, life.cause(), pause_s)
        with trio.move_on_after(pause_s):
            await self._wake.wait()

    async def _kill_hung(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            life = self.life
            if life is None or life.has_ended:
                continue
            silent_s = trio.current_time() - life.alive_at
            if silent_s > HUNG_S:
                log.error("%s gave no sign of life for %.0f s, killing it", self.name, silent_s)
                await life.signal(signal.SIGKILL)

    async def hand_over(self) -> None:
        """Replace the process by a new one. Raises: ProcessGivenUp; the present one then remains.

        A process that is not running is started.
        """
        async with self._moving:
            old = self.life
            if old is None or old.has_ended:
                await self._start_again()
                return
            new = await self._fork(self.name)
            await new.standby.wait()
            if new.has_ended:
                raise ProcessGivenUp(f"the new {self.name} failed, {new.cause()}", 1)
            self.life = new
            await end(old)
            new.go()
            await new.settled.wait()
            if new.has_ended:
                raise ProcessGivenUp(f"the new {self.name} failed, {new.cause()}", 1)

    async def _start_again(self) -> None:
        self.given_up, self.failures = "", 0
        self._wake.set()
        self._wake = trio.Event()
        await self._begun.wait()
        assert self.life is not None
        await self.life.settled.wait()
        if self.life.has_ended:
            raise ProcessGivenUp(f"{self.name} failed, {self.life.cause()}", 1)

    async def stop(self) -> None:
        """Stop the process for good."""
        self._stopping = True
        self._wake.set()
        async with self._moving:
            if self.life is not None:
                await end(self.life)

    async def signal(self, number: int) -> None:
        """Send a signal, if the process runs."""
        if self.life is not None:
            await self.life.signal(number)


async def end(life: Life, number: int = signal.SIGTERM, limit_s: float = STOP_S) -> None:
    """Ask a child to stop, and kill it after a time."""
    await life.signal(number)
    with trio.move_on_after(limit_s):
        await life.ended.wait()
    if not life.has_ended:
        log.error("%s did not stop within %.0f s, killing it", life.name, limit_s)
        await life.signal(signal.SIGKILL)
        await life.ended.wait()
