"""What happens to the processes of a server: they are killed, stopped, replaced, and hang."""

import random

import attrs
import trio

from tests.worker_simulation.plans import Plan
from tests.worker_simulation.processes import SimulatedCluster, SimulatedProcess

ZOMBIE_S = 60.0


@attrs.define(eq=False)
class Incidents:
    """Makes things happen until cancelled; `end` repairs what is broken."""

    cluster: SimulatedCluster
    plan: Plan
    chance: random.Random
    count: int = 0

    async def run(self) -> None:
        """Let incidents happen."""
        self.cluster.bus.faults = self.plan.bus
        self.cluster.wires.faults = self.plan.wires
        self.cluster.set_database_faults(self.plan.database)
        if not self.plan.incidents:
            return
        async with trio.open_nursery() as nursery:
            for _ in range(self.plan.most):
                await trio.sleep(round(self.chance.expovariate(1 / self.plan.pause_s), 3))
                process = self.chance.choice(list(self.cluster.processes.values()))
                nursery.start_soon(self._happen, self.chance.choice(self.plan.incidents), process)

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
            self.cluster.freezer.freeze(life)
            await trio.sleep(round(self.chance.uniform(1, 25), 3))
            self.cluster.freezer.resume(life)
        elif kind == "replace":
            await self._replace(process)
        else:
            await (process.kill() if kind == "kill" else process.stop())
            await trio.sleep(round(self.chance.expovariate(1 / 8), 3))
            await process.start()

    async def _replace(self, process: SimulatedProcess) -> None:
        """Let a process hang, start another one under its name, and let the first go on."""
        life = process.abandon()
        self.cluster.freezer.freeze(life)
        self.cluster.nursery.start_soon(process.start)
        await trio.sleep(round(self.chance.uniform(20, 60), 3))
        self.cluster.freezer.resume(life)
        with trio.move_on_after(ZOMBIE_S):
            await life.ended.wait()
        if life.ended.is_set():
            return
        if process.life is not None and process.life.is_ready:
            self.cluster.problems.append(f"{life.holder} goes on after it was replaced")
        await self.cluster.end_life(life)

    async def end(self) -> None:
        """End all faults; every process runs, or starts."""
        cluster = self.cluster
        cluster.end_faults()
        for process in cluster.processes.values():
            await process.start()
