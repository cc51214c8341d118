"""The health of a process: what keeps it from its work, found out by probes that callers share.

Rules:

- A probe runs when somebody asks, at most once in FRESH_S, and at most once at a time, however many
  ask. It costs nothing while nobody does, but for one look each ROUND_S, which is logged.
- Nobody waits longer than LATE_S after the start of a probe. A probe that takes longer goes on, and
  until it ends its `late` cause applies: whatever it asks does not answer.
- So an answer to a question that is asked FRESH_S or later after a change shows the change.
- A cause keeps the time at which it was noticed first, until a look does not find it any more.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import IntEnum

import attrs
import trio

from hs.lib.tasks import BackgroundNursery, every

FRESH_S = 0.5
LATE_S = 1.2
ROUND_S = 60.0

log = logging.getLogger(__name__)


class HealthState(IntEnum):
    """How well a process does its work, from best to worst."""

    READY = 0
    DEGRADED = 1  # it serves, but something is slow, late or missing
    UNREADY = 2  # it cannot serve

    @property
    def label(self) -> str:
        """The name for administrators and programs."""
        return self.name.lower()


@attrs.frozen(kw_only=True)
class Cause:
    """Why a process is not ready.

    `code` is for programs and stays the same in all versions. `check` is the group of causes that
    it belongs to, `subject` the process or key concerned. `message` is for administrators.
    """

    code: str
    check: str
    message: str
    subject: str = ""
    state: HealthState = HealthState.DEGRADED


@attrs.frozen(kw_only=True)
class NoticedCause:
    """A cause, and when it was noticed, as milliseconds since 1970-01-01 UTC."""

    cause: Cause
    since_ms: int


@attrs.frozen(kw_only=True)
class Health:
    """The state of a process with its causes, the worst first."""

    causes: tuple[NoticedCause, ...] = ()

    @property
    def state(self) -> HealthState:
        """The state that the worst cause leads to."""
        return max((noticed.cause.state for noticed in self.causes), default=HealthState.READY)


def _rank(noticed: NoticedCause) -> tuple[int, str, str]:
    cause = noticed.cause
    return -cause.state, cause.code, cause.subject


@attrs.frozen(kw_only=True)
class Probe:
    """Looks for causes of one kind; `late` applies while a look takes too long."""

    look: Callable[[], Awaitable[Sequence[Cause]]]
    late: Cause


@attrs.define(eq=False)
class _Watched:
    """A probe with its last result; `ended` belongs to the look that runs, if one does."""

    probe: Probe
    causes: Sequence[Cause] = ()
    began_at: float = -float("inf")
    ended: trio.Event | None = None

    async def look(self, ended: trio.Event) -> None:
        try:
            self.causes = await self.probe.look()
        except Exception:
            log.exception("a probe failed")
            self.causes = ()
        finally:
            self.ended = None
            ended.set()

    def current(self, now: float) -> Sequence[Cause]:
        """Return the causes that apply; those of before while a look is young."""
        if self.ended is not None and now >= self.began_at + LATE_S:
            return (self.probe.late,)
        return self.causes


@attrs.define(eq=False)
class HealthChecks:
    """The probes of a process. `instant` returns the causes that need no look."""

    _probes: Sequence[Probe]
    _instant: Callable[[], Iterable[Cause]]
    _now_ms: Callable[[], int]
    _watched: list[_Watched] = attrs.field(init=False)
    _since_ms: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)
    _logged: HealthState = attrs.field(default=HealthState.READY, init=False)
    _background: BackgroundNursery = attrs.field(factory=BackgroundNursery, init=False)

    @_watched.default
    def _watch(self) -> list[_Watched]:
        return [_Watched(probe) for probe in self._probes]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the looks that callers ask for, until cancelled."""
        await self._background.run(task_status)

    async def watch(self) -> None:
        """Look once in a while and log when the state changes, for ever."""
        await every(ROUND_S, self._look_and_log)

    async def check(self) -> Health:
        """Return the health, at most LATE_S later. Never raises."""
        await self._look()
        return self.known()

    def known(self) -> Health:
        """Return the health as of the last looks."""
        now, now_ms = trio.current_time(), self._now_ms()
        looked = [cause for watched in self._watched for cause in watched.current(now)]
        # The same fault may be found in several ways.
        causes = {(cause.code, cause.subject): cause for cause in [*self._instant(), *looked]}
        self._since_ms = {key: self._since_ms.get(key, now_ms) for key in causes}
        noticed = [
            NoticedCause(cause=cause, since_ms=self._since_ms[key]) for key, cause in causes.items()
        ]
        return Health(causes=tuple(sorted(noticed, key=_rank)))

    async def _look(self) -> None:
        """Begin the looks that are due; wait for all that run, but for late ones."""
        nursery = self._background.nursery
        if nursery is None:  # the process has not begun, or is ending
            await trio.lowlevel.checkpoint()
            return
        now = trio.current_time()
        for watched in self._watched:
            if watched.ended is None and now >= watched.began_at + FRESH_S:
                watched.began_at, watched.ended = now, trio.Event()
                nursery.start_soon(watched.look, watched.ended)
        for watched in self._watched:
            if watched.ended is not None:
                with trio.move_on_at(watched.began_at + LATE_S):
                    await watched.ended.wait()
        await trio.lowlevel.checkpoint()

    async def _look_and_log(self) -> None:
        health = await self.check()
        if health.state is self._logged:
            return
        self._logged = health.state
        if health.state is HealthState.READY:
            log.info("this process is ready again")
            return
        reasons = "; ".join(noticed.cause.message for noticed in health.causes)
        log.warning("this process is %s: %s", health.state.label, reasons)
