"""What happens to the processes of a server: they are killed, stopped, replaced, and hang."""

import random
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from hs.repl.leases import instance_lease
from hs.services.push.pushers.http_pusher import GRACE_S
from tests.worker_simulation.database import SILENCE_S, Point
from tests.worker_simulation.plans import Plan
from tests.worker_simulation.processes import Life, SimulatedCluster, SimulatedProcess, Trap

ZOMBIE_S = 60.0
LOOK_S = 0.5
LONGEST_TRAP_S = 5.0
POINTS = (None, Point.BEFORE_COMMIT, Point.BEFORE_COMMIT, *Point)
COMMITS = (Point.BEFORE_COMMIT, Point.AFTER_COMMIT)
BREAKS = 0.4  # the share of strikes at a point in which the connection breaks, too
CUT_OFF = 0.4  # the share of replaced processes that do not hang
DURATIONS_S = ((1, 8), (12, 25))
MOVES = 5
REPEAT_S = 10.0


@attrs.define(eq=False)
class Incidents:
    """Makes things happen until cancelled; `end` repairs what is broken.

    During a rush, which is noticed by `rush`, users send as fast as they can.
    """

    cluster: SimulatedCluster
    plan: Plan
    chance: random.Random
    count: int = 0
    rush: trio.Event = attrs.Factory(trio.Event)

    @property
    def most_doubled(self) -> int:
        """How many pushes may arrive twice: those that were sent when something broke."""
        return self.count + (3 if self.plan.has_database_faults else 0)

    async def run(self) -> None:
        """Let incidents happen."""
        self.cluster.bus.faults = self.plan.bus
        self.cluster.wires.faults = self.plan.wires
        self.cluster.set_database_faults(self.plan.database)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_leases)
            if not self.plan.incidents:
                return
            for _ in range(self.plan.most):
                await trio.sleep(round(self.chance.expovariate(1 / self.plan.pause_s), 3))
                owners = self.plan.writers["events"]
                name = self.chance.choice((*self.plan.names, *owners, *owners))
                process = self.cluster.processes[name]
                nursery.start_soon(self._happen, self.chance.choice(self.plan.incidents), process)

    async def _watch_leases(self) -> None:
        """Report leases that two processes hold, but those that hang.

        The lease of a name is fenced: without the database, who holds it may not notice its end.
        """
        doubled: Counter[str] = Counter()
        while True:
            await trio.sleep(LOOK_S)
            lives = [life for life in self.cluster.lives.values() if life.process is not None]
            held = Counter(
                name
                for life in lives
                if not (life.is_dead or self.cluster.freezer.is_frozen(life))
                for name in life.held_leases()
                if name != instance_lease(life.name)
            )
            doubled = Counter({name: doubled[name] + 1 for name in held if held[name] > 1})
            for name, looks in doubled.items():
                # A pusher that is cancelled finishes the notification that is being sent.
                grace_s = GRACE_S if name.startswith("duty:pushers") else 0.0
                if looks * LOOK_S > grace_s + LOOK_S:
                    self.cluster.problems.append(f"two processes hold the lease {name}")

    async def _happen(self, kind: str, process: SimulatedProcess) -> None:
        if process.life is None or not process.life.is_ready:
            return
        life = process.life
        self.count += 1
        self.cluster.trace.note(kind, process.name)
        match kind:
            case "redis":
                self.cluster.bus.break_down()
                await self._pause()
                self.cluster.bus.is_down = False
            case "hang":
                self._begin_rush()
                await self._strike(life, lambda: self.cluster.freezer.freeze(life))
                with trio.move_on_after(self._duration_s()):
                    await self._repeat_farewells(process.name)
                self._resume(life)
            case "cut off":
                await self._cut_off(life, self._duration_s())
            case "move":
                await self._move()
            case "replace":
                await self._replace(process)
            case "kill":
                await self._strike(life, life.die)
                await process.kill()
                await self._start_later(process)
            case "stop":
                self._begin_rush()
                await process.stop()
                await self._start_later(process)

    def _duration_s(self) -> float:
        return round(self.chance.uniform(*self.chance.choice(DURATIONS_S)), 3)

    async def _cut_off(self, life: Life, duration_s: float) -> None:
        life.is_cut_off = True
        # Others that need it wait for its answers, which it gives when its statements have failed.
        over_at = trio.current_time() + duration_s + SILENCE_S
        self.cluster.slow_until = max(self.cluster.slow_until, over_at)
        await trio.sleep(duration_s)
        self._resume(life)

    def _resume(self, life: Life) -> None:
        self.cluster.freezer.resume(life)
        life.is_cut_off = False
        life.hindered_until = trio.current_time()

    async def _pause(self) -> None:
        await trio.sleep(self._duration_s())

    async def _start_later(self, process: SimulatedProcess) -> None:
        await trio.sleep(round(self.chance.expovariate(1 / 8), 3))
        await process.start()

    def _begin_rush(self) -> None:
        self.rush.set()
        self.rush = trio.Event()

    async def _move(self) -> None:
        """Have the slots of rooms handed over while users send to the rooms."""
        self._begin_rush()
        for _ in range(MOVES):
            await trio.sleep(round(self.chance.random(), 3))
            self.cluster.shares.turn()
            for name in self.plan.writers["events"]:
                life = self.cluster.processes[name].life
                if life is not None and life.is_ready:
                    life.start_soon(life.rebalance)

    async def _repeat_farewells(self, name: str) -> None:
        """Repeat the announcements that a process stops, made by its earlier lives, for ever."""
        while True:
            if self.plan.restarts:
                self.cluster.bus.repeat_farewells(name)
            await trio.sleep(REPEAT_S)

    async def _strike(self, life: Life, act: Callable[[], None]) -> None:
        """Do something to a process at once, or at an unfortunate moment; see `Point`."""
        point = self.chance.choice(POINTS)
        if point is not None:
            done = trio.Event()

            def act_then() -> None:
                act()
                done.set()

            is_owner = life.name in self.plan.writers["events"] and point in COMMITS
            stream = "events" if is_owner else None
            life.trap = Trap(point, stream, act_then, breaks=self.chance.random() < BREAKS)
            try:
                with trio.move_on_after(LONGEST_TRAP_S):
                    await done.wait()
            finally:
                # Also if the incidents end meanwhile: nothing would let the process go on.
                life.trap = None
            if done.is_set():
                return
        act()

    async def _replace(self, process: SimulatedProcess) -> None:
        """Let a process hang, start another one under its name, and let the first go on.

        Or the first one is cut off from the database, but goes on otherwise.
        """
        life = process.abandon()
        try:
            duration_s = round(self.chance.uniform(20, 60), 3)
            is_cut_off = self.chance.random() < CUT_OFF
            if not is_cut_off:
                await self._strike(life, lambda: self.cluster.freezer.freeze(life))
            self.cluster.nursery.start_soon(process.start)
            if is_cut_off:
                await self._cut_off(life, duration_s)
            else:
                await trio.sleep(duration_s)
            self._resume(life)
            with trio.move_on_after(ZOMBIE_S):
                await life.ended.wait()
            if life.ended.is_set():
                return
            if process.life is not None and process.life.is_ready:
                self.cluster.problems.append(f"{life.holder} goes on after it was replaced")
        finally:
            # As long as the first one answers, the other one is refused.
            if not life.ended.is_set():
                with trio.CancelScope(shield=True):
                    await self.cluster.end_life(life)

    async def end(self) -> None:
        """End all faults; every process runs, or starts."""
        cluster = self.cluster
        cluster.end_faults()
        for process in cluster.processes.values():
            await process.start()
