"""Whether Redis and the other processes of the server answer, and whether this one keeps up."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import attrs
import trio

from hs.lib.health import Cause, HealthState, Probe
from hs.repl.calls.client import SECRET_MISMATCH
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.process_reports import FollowedWriter

REPLICATION: Final = "replication"
SLOW_S: Final = 0.5
LAG_POSITIONS: Final = 1000
"""A process that is so far behind shows clients old data."""

FindFault = Callable[[], Awaitable[str | None]]
Ping = Callable[[], Awaitable[None]]


@attrs.frozen(eq=False)
class RedisProbe:
    """Asks Redis for a sign of life; `find_fault` returns why there is none, or None."""

    _find_fault: FindFault

    @property
    def probe(self) -> Probe:
        """The probe."""
        return Probe(look=self.look, late=_redis_cause("it does not answer"))

    async def look(self) -> Sequence[Cause]:
        """Return what is wrong with Redis."""
        fault = await self._find_fault()
        return [] if fault is None else [_redis_cause(fault)]


def redis_causes(is_connected: bool) -> Iterator[Cause]:
    """Yield a cause while there is no connection to Redis."""
    if not is_connected:
        yield _redis_cause("it cannot be reached")


def _redis_cause(fault: str) -> Cause:
    return Cause(
        code="redis_unreachable",
        check=REPLICATION,
        subject="redis",
        message=f"Redis: {fault}; changes of other processes come up to a second late",
    )


@attrs.frozen(eq=False, kw_only=True)
class ProcessProbe:
    """Calls another process, which writes a stream, or is the main process.

    `is_essential` says that this process is useless if its calls are rejected and always were;
    `never_admitted` returns whether that is so.
    """

    name: str
    ping: Ping
    is_essential: bool
    never_admitted: Callable[[str], bool]

    @property
    def probe(self) -> Probe:
        """The probe."""
        message = f"process {self.name} does not answer: look into its log, or restart it"
        return Probe(look=self.look, late=self._cause("process_hung", message))

    async def look(self) -> Sequence[Cause]:
        """Return what is wrong with the process."""
        began = trio.current_time()
        try:
            await self.ping()
        except RpcUnavailable as error:
            return [self._cause_of(error.cause)]
        except RpcFailed as error:
            return [self._cause("process_fails", f"process {self.name}: {error}")]
        seconds = trio.current_time() - began
        if seconds <= SLOW_S:
            return []
        message = f"process {self.name} took {seconds:.1f} s to answer: it has too much to do"
        return [self._cause("process_slow", message)]

    def _cause_of(self, fault: str) -> Cause:
        if fault == SECRET_MISMATCH:
            name = "the main process" if self.is_essential else f"process {self.name}"
            # A process that was admitted before serves on: the secret of the other one changed.
            is_useless = self.is_essential and self.never_admitted(self.name)
            state = HealthState.UNREADY if is_useless else HealthState.DEGRADED
            return self._cause("secret_differs", f"{name} rejects our calls: {fault}", state)
        if fault == "no reply in time":
            return self.probe.late
        return self._cause("process_unreachable", f"process {self.name} is not reached: {fault}")

    def _cause(self, code: str, message: str, state: HealthState = HealthState.DEGRADED) -> Cause:
        return Cause(code=code, check=REPLICATION, subject=self.name, message=message, state=state)


def lag_causes(followed: Sequence[FollowedWriter]) -> Iterator[Cause]:
    """Yield a cause for each writer that is far ahead of what this process has received."""
    for writer in followed:
        if writer.lag > LAG_POSITIONS:
            yield Cause(
                code="replication_lag",
                check=REPLICATION,
                subject=f"{writer.stream}/{writer.writer}",
                message=f"this process is {writer.lag} positions behind {writer.writer} in stream "
                f"{writer.stream}",
            )
