"""One run of the simulation: what happens, in which order, is decided by the seed."""

import logging
import random
import traceback
from typing import Final

import attrs
import trio
import trio.testing

from hs.core.ids import ServerName, UserID, server_of
from hs.settings.sections.federation import (
    FederationSettings,
    KeyExchangeSettings,
    KeyServerSettings,
    PeerRequestSettings,
)
from hs.settings.sections.rooms import RoomSettings
from tests.simulation.clients import Clients
from tests.simulation.database import ProcessDied
from tests.simulation.determinism import Trace, VirtualClock, seeded
from tests.simulation.error_log import recorded_errors
from tests.simulation.evil_room import NAME, USER
from tests.simulation.invariants import check_all
from tests.simulation.malice import Mallory
from tests.simulation.network import Faults, SimulatedNetwork
from tests.simulation.servers import SimulatedServer
from tests.simulation.settling import settle
from tests.support.composition import SETTINGS

NAMES: Final = [ServerName(f"{name}.example") for name in ("alpha", "beta", "gamma", "delta")]
VERSIONS: Final = ("3", "6", "8", "9", "10", "10", "11", "11", "12", "12")
OLD_VERSIONS: Final = ("1", "2")  # in which servers choose event IDs
STEPS: Final = 60


@attrs.frozen(kw_only=True)
class Plan:
    """What a run consists of."""

    servers: int
    versions: tuple[str, ...]
    is_evil: bool
    crashes: float  # the share of the steps
    cuts: float
    faults: Faults
    backoff_ms: int
    dummies_above: int
    skews_ms: tuple[int, ...]
    departs: bool
    begins_cut: bool
    steps: int

    @classmethod
    def by_chance(cls, chance: random.Random, steps: int) -> "Plan":
        """Return a plan."""
        is_evil = chance.random() < 0.6
        is_unreliable = chance.random() < 0.7
        faults = Faults(
            lost_requests=chance.choice((0, 0.05, 0.2)),
            lost_answers=chance.choice((0, 0.05, 0.2)),
            repeats=chance.choice((0, 0.1, 0.3)),
            delay_s=chance.choice((0.02, 0.2, 2)),
            stalls=chance.choice((0, 0.05)),
        )
        servers = chance.choice((2, 3)) if is_evil else chance.choice((3, 3, 4))
        longest_skew_ms = chance.choice((0, 5_000, 3_600_000))
        versions = VERSIONS if is_evil else VERSIONS + OLD_VERSIONS
        return cls(
            servers=servers,
            versions=tuple(chance.choice(versions) for _ in range(chance.choice((1, 1, 2)))),
            is_evil=is_evil,
            crashes=chance.choice((0, 0.03, 0.08)),
            cuts=chance.choice((0, 0.05)),
            faults=faults if is_unreliable else Faults(delay_s=0.01),
            backoff_ms=chance.choice((0, 5_000, 600_000)),
            dummies_above=chance.choice((2, 10)),
            skews_ms=tuple(chance.randint(0, longest_skew_ms) for _ in range(servers)),
            departs=chance.random() < 0.6,
            begins_cut=chance.random() < 0.3,
            steps=steps,
        )


@attrs.define(eq=False)
class Outcome:
    """The result of a run; without problems, it is right."""

    seed: int
    plan: Plan
    trace: Trace
    problems: list[str]
    events: int = 0
    virtual_s: float = 0.0

    @property
    def size(self) -> str:
        """How much happened."""
        return f"{self.events} events in {self.virtual_s:.0f} s"


def _prefix_of(record: logging.LogRecord) -> str | None:
    """Return "", or None for the errors of processes that were killed."""
    error = record.exc_info[1] if record.exc_info else None
    return None if error is not None and _is_death(error) else ""


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_death, error.exceptions))
    cause = error.__cause__ or error.__context__
    return isinstance(error, ProcessDied) or (cause is not None and _is_death(cause))


def run_seed(seed: int, steps: int = STEPS, trace: Trace | None = None) -> Outcome:
    """Run a seed; the problems include exceptions of the servers and errors that they log."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    trace = trace or Trace()
    with seeded(seed) as chance, recorded_errors(_prefix_of) as errors:
        plan = Plan.by_chance(chance, steps)
        outcome = Outcome(seed, plan, trace, [])
        try:
            trio.run(_Run(chance, plan, trace, outcome).run, clock=clock)
        except BaseExceptionGroup as group:
            outcome.problems += [repr(error) for error in _leaves(group)]
            errors.append(_traceback(group))
        outcome.problems += errors
    return outcome


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@attrs.define(eq=False)
class _Run:
    _chance: random.Random
    _plan: Plan
    _trace: Trace
    _outcome: Outcome

    async def run(self) -> None:
        """Run the plan and check the result."""
        plan = self._plan
        self._trace.note(plan)
        names = NAMES[: plan.servers]
        # A server that joins cannot check the events of servers that it does not reach, and leaves
        # them out of the state of the room, for good, unless notaries have their keys.
        notaries = tuple(KeyServerSettings(server_name=name) for name in names)
        settings = attrs.evolve(
            SETTINGS,
            key_exchange=KeyExchangeSettings(trusted_key_servers=notaries),
            peer_requests=PeerRequestSettings(destination_min_retry_interval=plan.backoff_ms),
            federation=FederationSettings(allow_device_name_lookup_over_federation=True),
            rooms=RoomSettings(dummy_events_threshold=plan.dummies_above),
        )
        async with trio.open_nursery() as nursery:
            network = SimulatedNetwork(self._chance, self._trace, nursery)
            servers = {}
            for name, skew_ms in zip(names, plan.skews_ms, strict=True):
                users = [UserID(f"@u{number}:{name}") for number in range(2)]
                servers[name] = SimulatedServer(
                    name, network, settings, users, clock=VirtualClock(skew_ms=skew_ms)
                )
                await servers[name].start()
            clients = Clients(self._chance, self._trace, servers)
            clients.outsiders += [USER] if plan.is_evil else []
            mallory = Mallory(network, names) if plan.is_evil else None
            if plan.begins_cut:
                pair = frozenset(self._chance.sample(names, 2))
                nursery.start_soon(self._cut, network, pair)
            await self._begin(clients, mallory)
            network.faults = plan.faults
            async with trio.open_nursery() as acting:
                for _ in range(plan.steps):
                    await trio.sleep(round(self._chance.expovariate(1.0), 3))
                    self._step(acting, network, clients, mallory)
                if plan.departs:
                    acting.start_soon(self._depart, clients)
            if mallory is not None:
                mallory.answers.is_quiet = True
            final = await settle(network, clients)
            self._outcome.problems += clients.problems
            self._outcome.problems += await check_all(clients, final, mallory)
            self._outcome.events = len(clients.acknowledged)
            self._outcome.virtual_s = trio.current_time()
            for server in servers.values():
                await server.crash()
                self._outcome.problems += server.problems
            nursery.cancel_scope.cancel()

    async def _begin(self, clients: Clients, mallory: Mallory | None) -> None:
        """Create the rooms, and let some users join."""
        for user_id in clients.users:
            await clients.upload_keys(user_id)
            await clients.rename_device(user_id)
        for version in self._plan.versions:
            founder = self._chance.choice(clients.users)
            room = await clients.create_room(founder, version)
            assert room is not None
            for user_id in clients.users:
                if user_id != founder and self._chance.random() < 0.6:
                    has_joined = await clients.join(user_id, room)
                    assert has_joined or self._plan.begins_cut
            if mallory is not None:
                await mallory.join(room.room_id, server_of(founder))
                assert room.room_id in mallory.rooms

    def _step(
        self,
        acting: trio.Nursery,
        network: SimulatedNetwork,
        clients: Clients,
        mallory: Mallory | None,
    ) -> None:
        chance, plan = self._chance, self._plan
        dice = chance.random()
        if dice < plan.crashes:
            acting.start_soon(self._crash, chance.choice(list(clients.servers.values())))
        elif dice < plan.crashes + plan.cuts:
            names = [*clients.servers, NAME] if plan.is_evil else list(clients.servers)
            acting.start_soon(self._cut, network, frozenset(chance.sample(names, 2)))
        elif mallory is not None and chance.random() < 0.3:
            acting.start_soon(mallory.act)
        else:
            acting.start_soon(clients.act)

    async def _depart(self, clients: Clients) -> None:
        """Let all users of a server speak and leave a room, and others crash meanwhile.

        No later event of that server will cite these if they are lost.
        """
        chance = self._chance
        room = chance.choice(clients.rooms)
        home = clients.servers[server_of(room.founder)]
        leaving = chance.choice([each for each in clients.servers.values() if each is not home])
        self._trace.note("departure", leaving.name, room.room_id)
        for user_id in leaving.users:
            await clients.send(user_id, room)
        for user_id in leaving.users:
            await clients.leave(user_id, room)
        if self._plan.crashes:
            for server in clients.servers.values():
                await trio.sleep(round(chance.expovariate(2.0), 3))
                await self._crash(server)

    async def _crash(self, server: SimulatedServer) -> None:
        if server.life is None:
            return
        self._trace.note("crash", server.name)
        await server.crash()
        await trio.sleep(round(self._chance.expovariate(1 / 15), 3))
        await server.start()
        self._trace.note("restart", server.name)

    async def _cut(self, network: SimulatedNetwork, pair: frozenset[ServerName]) -> None:
        self._trace.note("cut", *sorted(pair))
        network.cuts.add(pair)
        await trio.sleep(round(self._chance.expovariate(1 / 40), 3))
        network.cuts.discard(pair)
        self._trace.note("healed", *sorted(pair))
