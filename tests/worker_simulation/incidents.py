"""What happens to the processes of a server: they are killed, stopped, replaced, and hang."""

import random
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from hs.repl.leases import instance_lease
from tests.worker_simulation.database import AFTER_COMMIT, BEFORE_COMMIT
from tests.worker_simulation.plans import Plan
from tests.worker_simulation.processes import Life, SimulatedCluster, SimulatedProcess

ZOMBIE_S = 60.0
LOOK_S = 0.5
LONGEST_TRAP_S = 5.0
STRIKES_AT_COMMITS = 0.6


@attrs.define(eq=False)
class Incidents:
    """Makes things happen until cancelled; `end` repairs what is broken."""

    cluster: SimulatedCluster
    plan: Plan
    chance: random.Random
    count: int = 0

    @property
    def most_doubled(self) -> int:
        """How many pushes may arrive twice: those that were sent when something broke."""
        return self.count + (3 if self.plan.database.failed or self.plan.database.unknown else 0)

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
        doubled: set[str] = set()
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
            before, doubled = doubled, {name for name, count in held.items() if count > 1}
            for name in before & doubled:
                self.cluster.problems.append(f"two processes hold the lease {name}")

    async def _happen(self, kind: str, process: SimulatedProcess) -> None:
        if process.life is None or not process.life.is_ready:
            return
        self.count += 1
        self.cluster.trace.note(kind, process.name)
        if kind == "redis":
            self.cluster.bus.break_down()
            await trio.sleep(round(self.chance.uniform(1, 25), 3))
            self.cluster.bus.is_down = False
        elif kind == "hang":
            life = process.life
            await self._strike(life, lambda: self.cluster.freezer.freeze(life))
            await trio.sleep(round(self.chance.uniform(1, 25), 3))
            self.cluster.freezer.resume(life)
        elif kind == "replace":
            await self._replace(process)
        else:
            if kind == "kill":
                await self._strike(process.life, process.life.die)
            await (process.kill() if kind == "kill" else process.stop())
            await trio.sleep(round(self.chance.expovariate(1 / 8), 3))
            await process.start()

    async def _strike(self, life: Life, act: Callable[[], None]) -> None:
        """Do something to a process at once, or at an unfortunate moment: around a commit."""
        if self.chance.random() < STRIKES_AT_COMMITS:
            done = trio.Event()

            def act_then() -> None:
                act()
                done.set()

            life.trap = (self.chance.choice((BEFORE_COMMIT, AFTER_COMMIT)), act_then)
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
        """Let a process hang, start another one under its name, and let the first go on."""
        life = process.abandon()
        try:
            await self._strike(life, lambda: self.cluster.freezer.freeze(life))
            self.cluster.nursery.start_soon(process.start)
            await trio.sleep(round(self.chance.uniform(20, 60), 3))
            self.cluster.freezer.resume(life)
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
