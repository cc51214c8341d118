"""One run of the simulation: what happens, in which order, is decided by the seed."""

import logging
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio
import trio.testing

from hs.settings.sections.workers import InstanceAddress, WorkerSettings
from tests.simulation.determinism import Trace, seeded
from tests.support.composition import SETTINGS
from tests.support.pushing import FakeGateway
from tests.support.sql.databases import new_inline
from tests.worker_simulation.bus import Bus
from tests.worker_simulation.clients import Clients, User
from tests.worker_simulation.processes import SimulatedCluster
from tests.worker_simulation.scheduling import OWNER, Freezer, freezing


@attrs.define(eq=False)
class Outcome:
    """The result of a run; without problems, it is right."""

    seed: int
    trace: Trace
    problems: list[str]
    requests: int = 0
    events: int = 0
    virtual_s: float = 0.0


class _ErrorLog(logging.Handler):
    """Records errors, but those of processes that were killed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        life = OWNER.get(None)
        if life is None or not life.is_dead:
            self.lines.append(f"{getattr(life, 'name', '')}: {self.format(record)}")


@contextmanager
def _recorded_errors() -> Iterator[_ErrorLog]:
    log, handler = logging.getLogger("hs"), _ErrorLog()
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)


def run_seed(seed: int, trace: Trace | None = None) -> Outcome:
    """Run a seed; the problems include exceptions of the processes and errors that they log."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    trace = trace or Trace()
    outcome = Outcome(seed, trace, [])
    with seeded(seed) as chance, _recorded_errors() as errors, freezing() as freezer:
        try:
            trio.run(_Run(chance, trace, outcome, freezer).run, clock=clock)
        except BaseExceptionGroup as group:
            outcome.problems.append("".join(traceback.format_exception(group)))
        outcome.problems += errors.lines
    return outcome


@attrs.define(eq=False)
class _Run:
    _chance: random.Random
    _trace: Trace
    _outcome: Outcome
    _freezer: Freezer

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            bus = Bus(self._chance, self._trace, nursery)
            cluster = SimulatedCluster(
                chance=self._chance,
                trace=self._trace,
                nursery=nursery,
                freezer=self._freezer,
                bus=bus,
                http=FakeGateway(),
                store=new_inline(),
            )
            with cluster.doors():
                await self._play(cluster)
            self._outcome.problems += cluster.problems
            nursery.cancel_scope.cancel()

    async def _play(self, cluster: SimulatedCluster) -> None:
        names = ["main", "sync1", "persister1"]
        for name in names:
            defaults = WorkerSettings()
            workers = attrs.evolve(
                defaults,
                name=name,
                instances={each: InstanceAddress(host=each, port=1) for each in names},
                writers={**defaults.writers, "events": ("persister1",)},
            )
            cluster.add(name, attrs.evolve(SETTINGS, workers=workers))
        async with trio.open_nursery() as starting:
            for process in cluster.processes.values():
                starting.start_soon(process.start)
        clients = Clients(cluster, self._chance, self._trace)
        users = [User(clients, f"u{number}") for number in range(3)]
        for user in users:
            await user.register()
        created = await users[0].ask("POST", "createRoom", json={"preset": "public_chat"})
        room_id = created.json["room_id"]
        for user in users[1:]:
            joined = await user.ask("POST", "join", room_id, json={})
            assert joined.status == 200, joined.body
        acknowledged: list[str] = []
        stopped = trio.Event()
        async with trio.open_nursery() as acting:
            for user in users:
                acting.start_soon(user.sync_until, stopped.is_set)
            for _ in range(40):
                user = self._chance.choice(users)
                number = clients.number()
                body = {"msgtype": "m.text", "body": f"{number}"}
                sent = await user.ask(
                    "PUT", "rooms", room_id, "send", "m.room.message", f"t{number}", json=body
                )
                assert sent.status == 200
                acknowledged.append(sent.json["event_id"])
                await trio.sleep(round(self._chance.expovariate(2.0), 3))
            await trio.sleep(5)
            stopped.set()
        for user in users:
            await user.sync()
            seen = user.view.timelines[room_id]
            missing = [event_id for event_id in acknowledged if event_id not in seen]
            if missing:
                clients.problem(f"{user.user_id} never saw {missing}")
        for process in cluster.processes.values():
            cluster.problems += await process.faults()
        self._outcome.requests = clients.requests
        self._outcome.events = len(acknowledged)
        self._outcome.virtual_s = trio.current_time()
        for process in cluster.processes.values():
            await process.kill()
