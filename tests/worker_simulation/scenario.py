"""One run of the simulation: what happens, in which order, is decided by the seed."""

import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import trio
import trio.testing

from hs.repl.redis import ANNOUNCE_ALL_EVERY, BEAT_S
from tests.simulation.determinism import Trace, seeded
from tests.simulation.error_log import recorded_errors
from tests.support.sql.databases import new_inline
from tests.worker_simulation.bounds import Bounds
from tests.worker_simulation.bus import LONGEST_DELAY_S, Bus
from tests.worker_simulation.gateway import Gateway, add_pusher
from tests.worker_simulation.incidents import Incidents
from tests.worker_simulation.invariants import Invariants
from tests.worker_simulation.ledger import Ledger
from tests.worker_simulation.plans import Plan
from tests.worker_simulation.probes import probe
from tests.worker_simulation.processes import SimulatedCluster
from tests.worker_simulation.requests import Requests
from tests.worker_simulation.scheduling import OWNER, Freezer, freezing
from tests.worker_simulation.tables import read_tables
from tests.worker_simulation.users import Room, User

READY_S: Final = 90.0
SETTLE_S: Final = 15.0
MANY: Final = 200
RUSH: Final = 10  # messages that each user sends in a rush


@attrs.define(eq=False)
class Outcome:
    """The result of a run; without problems, it is right."""

    seed: int
    trace: Trace
    problems: list[str]
    requests: int = 0
    events: int = 0
    virtual_s: float = 0.0

    @property
    def size(self) -> str:
        """How much happened."""
        return f"{self.requests} requests, {self.events} events in {self.virtual_s:.0f} s"


def _prefix_of(record: logging.LogRecord) -> str | None:
    """Return the name of the process; None for errors that are expected, or of a killed one."""
    life = OWNER.get(None)
    if _is_expected(record) or (life is not None and life.is_dead):
        return None
    return f"{getattr(life, 'name', '')}: "


def _is_expected(record: logging.LogRecord) -> bool:
    return record.levelno == logging.CRITICAL and "it is not known whether" in record.msg


def run_seed(seed: int, trace: Trace | None = None) -> Outcome:
    """Run a seed; the problems include exceptions of the processes and errors that they log."""
    return _run(seed, Plan.by_chance, None, trace or Trace())


@attrs.frozen(eq=False)
class Scene:
    """What a script needs to make something happen to the processes of a plan."""

    plan: Plan
    cluster: SimulatedCluster
    users: list[User]
    rooms: list[Room]


Script = Callable[[Scene], Awaitable[None]]


def run_script(plan: Plan, script: Script) -> Outcome:
    """Run a script, in place of what happens by chance, and check the result in the same way."""
    return _run(0, lambda _: plan, script, Trace())


def _run(
    seed: int, make_plan: Callable[[random.Random], Plan], script: Script | None, trace: Trace
) -> Outcome:
    clock = trio.testing.MockClock(autojump_threshold=0)
    outcome = Outcome(seed, trace, [])
    with seeded(seed) as chance, recorded_errors(_prefix_of) as errors, freezing() as freezer:
        run = _Run(
            plan=make_plan(chance),
            script=script,
            chance=chance,
            trace=trace,
            outcome=outcome,
            freezer=freezer,
        )
        bounds = Bounds(freezer, outcome.problems)
        try:
            trio.run(bounds.run, run.run, clock=clock, instruments=[bounds])
        except BaseExceptionGroup as group:
            outcome.problems.append("".join(traceback.format_exception(group)))
        outcome.problems += errors
    return outcome


@attrs.define(eq=False, kw_only=True)
class _Run:
    _plan: Plan
    _script: Script | None
    _chance: random.Random
    _trace: Trace
    _outcome: Outcome
    _freezer: Freezer
    _gateway: Gateway = attrs.Factory(Gateway)

    async def run(self) -> None:
        """Run the plan and check the result."""
        self._trace.note(self._plan)
        async with trio.open_nursery() as nursery:
            cluster = SimulatedCluster(
                chance=self._chance,
                trace=self._trace,
                nursery=nursery,
                freezer=self._freezer,
                bus=Bus(self._chance, self._trace, nursery, latency_s=self._plan.latency_s),
                http=self._gateway,
                store=new_inline(),
                sees_deaths=self._plan.sees_deaths,
                problems=self._outcome.problems,
            )
            with cluster.doors():
                await self._play(cluster)
                for process in cluster.processes.values():
                    await process.kill()
            self._outcome.virtual_s = trio.current_time()
            nursery.cancel_scope.cancel()

    async def _play(self, cluster: SimulatedCluster) -> None:
        plan = self._plan
        for name, skew_ms in zip(plan.names, plan.skews_ms, strict=True):
            cluster.add(name, plan.settings_of(name), skew_ms)
        await _all_at_once([process.start for process in cluster.processes.values()])
        if plan.restarts:
            await _all_at_once([process.stop for process in cluster.processes.values()])
            await _all_at_once([process.start for process in cluster.processes.values()])
            await trio.sleep_until(cluster.slow_until)
        requests, ledger = Requests(cluster, self._chance, self._trace), Ledger()
        users = [
            User(
                requests,
                ledger,
                f"u{number}",
                limit=4 if number == 1 else MANY,
                is_silent=number == 2,
                is_strict=not plan.has_database_faults,
            )
            for number in range(plan.users)
        ]
        rooms = await self._begin(users)
        for room in rooms:
            cluster.shares.add(room.room_id)
        incidents = Incidents(cluster, plan, self._chance)
        is_over = trio.Event()
        async with trio.open_nursery() as syncing:
            for user in users:
                syncing.start_soon(user.sync_until, is_over.is_set)
            async with trio.open_nursery() as acting:
                acting.start_soon(incidents.run)
                if self._script is not None:
                    await self._script(Scene(plan, cluster, users, rooms))
                else:
                    actors = [self._actor(user, users, rooms, incidents) for user in users]
                    await _all_at_once(actors)
                acting.cancel_scope.cancel()
            await incidents.end()
            await self._settle(cluster)
            is_over.set()
        for name in cluster.serving:
            cluster.problems += await probe(name, cluster, users[0], users[-1], rooms[0])
        await trio.sleep(1)  # until the last message was pushed
        for user in users:
            for _ in range(3):
                await user.sync()
        checks = Invariants(cluster, ledger, rooms, users, await read_tables(cluster.store))
        cluster.problems += checks.check()
        for room in rooms:
            if not room.roams:
                events = checks.tables.room(room.room_id)
                cluster.problems += self._gateway.check(events, incidents.most_doubled)
        if self._plan.bus.delayed:
            await trio.sleep(LONGEST_DELAY_S)  # the messages of what was written last
        for name in cluster.processes:
            cluster.problems += await checks.check_process(name)
        self._outcome.requests, self._outcome.events = requests.sent, len(ledger.events)

    async def _begin(self, users: list[User]) -> list[Room]:
        """Register users and create rooms: one in which all stay, others where they roam."""
        for user in users:
            await user.register()
        rooms = []
        for number in range(3):
            founder = users[0] if number != 1 else self._chance.choice(users)
            response = await founder.ask("POST", "createRoom", json={"preset": "public_chat"})
            room = Room(response.json["room_id"], founder.user_id, roams=number == 2)
            rooms.append(room)
            for user in users:
                if user is not founder and not (room.roams and user.limit < MANY):
                    has_joined = await user.join(room)
                    assert has_joined
        for user in users:
            await user.sync()
            if user.is_silent:
                await add_pusher(user)
        return rooms

    def _actor(
        self, user: User, users: list[User], rooms: list[Room], incidents: Incidents
    ) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            for _ in range(self._plan.actions):
                rush = incidents.rush
                with trio.move_on_after(round(self._chance.expovariate(1.0), 3)):
                    await rush.wait()
                if rush.is_set() and not user.is_silent:
                    for _ in range(RUSH):
                        await user.send(self._chance.choice(rooms[:2]))
                await self._act(user, users, rooms)

        return act

    async def _act(self, user: User, users: list[User], rooms: list[Room]) -> None:
        chance = self._chance
        room, other = chance.choice(rooms), chance.choice(users)
        if user.is_silent:
            await user.count(None)
            return
        match chance.choice(_ACTIONS):
            case "send":
                await user.send(room)
            case "topic" if room.founder == user.user_id:
                await user.set_topic(room)
            case "read":
                await user.read_room(room)
            case "count":
                await user.count(chance.choice((None, room)))
            case "rule":
                await user.add_rule()
            case "rename":
                await user.rename()
            case "message device":
                await user.message_device(other)
            case "keys":
                await user.upload_keys()
            case "roam":
                await self._roam(user, other, rooms[-1])
            case _:
                await user.send(room)

    async def _roam(self, user: User, other: User, room: Room) -> None:
        if user.limit < MANY:
            await user.count(room)
        elif room.founder != user.user_id:
            await (user.leave(room) if self._chance.random() < 0.4 else user.join(room))
        elif other is not user:
            await user.set_membership(
                room, self._chance.choice(("ban", "ban", "unban", "kick")), other
            )

    async def _settle(self, cluster: SimulatedCluster) -> None:
        """Wait until every process is ready, and the work that remains had its time."""
        faults: list[str] = []
        with trio.move_on_after(READY_S) as scope:
            while True:
                faults = [
                    each
                    for process in cluster.processes.values()
                    for each in await process.faults()
                ]
                if not faults:
                    break
                await trio.sleep(1)
        if scope.cancelled_caught:
            cluster.problems += [f"not ready again: {fault}" for fault in faults]
        await trio.sleep(SETTLE_S)
        if self._plan.bus.lost:
            # The announcement of a position may be lost, too, until that of all positions.
            await trio.sleep(ANNOUNCE_ALL_EVERY * BEAT_S)


async def _all_at_once(works: Sequence[Callable[[], Awaitable[object]]]) -> None:
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work)


_ACTIONS = (
    *("send",) * 8,
    *("topic", "read", "count", "message device", "roam") * 2,
    *("rule", "rename", "keys"),
)
