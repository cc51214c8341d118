"""The processes of a simulated server: composed and started as in production, killed, and hung.

Everything of `hs serve` runs but what is at the doors: sockets (`Wires`, and clients that call the
application), Redis (`Bus`), the engine of the database, the clock, and HTTP to others.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar
from unittest import mock

import attrs
import trio

import hs.repl.leases
from hs.apis.web.app import Application
from hs.core.errors import Unavailable
from hs.lib.http_client import HttpClient
from hs.nursery import boot, compose, nursery_tree, process_base
from hs.nursery.exit_causes import cause_of
from hs.nursery.nursery_tree import Shutdown, run_tree
from hs.nursery.plan import plan_of
from hs.nursery.process import Process
from hs.nursery.services import Network, build_services
from hs.nursery.wiring.http_clients import HttpClients
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.sender import RESTART_S
from hs.repl.leases import instance_lease
from hs.repl.slots import keeper
from hs.settings.settings import Settings
from hs.storage.database import DatabaseError
from hs.storage.inline import InlineDatabase
from tests.simulation.database import ProcessDied
from tests.simulation.determinism import Trace, VirtualClock
from tests.support.composition import NoDownloads, UnreachablePeers
from tests.support.web import WebClient, WebResponse
from tests.worker_simulation.bus import Bus, BusFaults
from tests.worker_simulation.database import DatabaseFaults, Point, SharedDatabase
from tests.worker_simulation.scheduling import OWNER, Freezer
from tests.worker_simulation.shares import Shares
from tests.worker_simulation.wires import WireFaults, Wires

T = TypeVar("T")

UNUSED_DUTIES: Final = frozenset(("event loop stalls",))  # they measure real time
DEATH_TIMEOUT_S: Final = 3600.0
RESTART_AFTER_S: Final = 2.0


class NoAnswer(Exception):
    """The connection ended without a response."""


class InlineBridge:
    """The bridge of a process without asyncio: its coroutines are those of trio."""

    async def run(self, afn: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await afn(*args)

    async def run_with_grace(
        self, grace_s: float, afn: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        return await afn(*args)

    def call_in_trio(self, fn: Callable[..., object], *args: Any) -> None:
        fn(*args)

    def call_in_loop(self, fn: Callable[..., object], *args: Any) -> None:
        fn(*args)


@attrs.frozen(eq=False)
class Trap:
    """What happens to a process when it gets to a point, and whether its connection breaks.

    The process stays at that point for `pause_s`.
    """

    point: Point
    stream: str | None  # of the commit; None for any
    act: Callable[[], None]
    breaks: bool = False
    pause_s: float = 0.0


@attrs.define(eq=False)
class Life:
    """A process from its start to its end."""

    name: str
    number: int
    nursery: trio.Nursery
    is_dead: bool = False
    is_ready: bool = False
    process: Process | None = None
    shutdown: Shutdown = attrs.Factory(Shutdown)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    ended: trio.Event = attrs.Factory(trio.Event)
    public: Application | None = None
    internal: Application | None = None
    is_cut_off: bool = False  # from the database
    hindered_until: float = 0.0  # when it last hung or was cut off
    trap: Trap | None = None

    def die(self) -> None:
        """Let nothing that the process does from now on have an effect."""
        self.is_dead = True

    def awaits(self, point: Point | None, stream: str | None) -> bool:
        """Return whether something is to happen to the process at a point."""
        trap = self.trap
        return trap is not None and trap.point is point and trap.stream in (None, stream)

    def reach(self, point: Point | None) -> Trap | None:
        """Let happen what is to happen at a point, once; return what that was."""
        if self.trap is None or self.trap.point is not point:
            return None
        trap, self.trap = self.trap, None
        trap.act()
        return trap

    @property
    def holder(self) -> str:
        """The name under which this life holds leases."""
        return f"{self.name}@{self.number}"

    def held_leases(self) -> set[str]:
        """Return the names of the leases that this process believes to hold."""
        return set() if self.process is None else self.process.base.leases.held

    async def rebalance(self) -> None:
        """Hand over at once the slots that belong to other processes, as `hs rebalance` has it."""
        if self.process is not None and self.process.base.slots is not None:
            with suppress(Unavailable, DatabaseError, ProcessDied):
                await self.process.base.slots.rebalance()

    @property
    def endpoint(self) -> RpcEndpoint:
        """What other processes connect to."""
        assert self.process is not None
        cluster = self.process.base.cluster
        assert cluster is not None
        return cluster.endpoint

    @property
    def draining(self) -> trio.Event:
        """Set when the replication listener stops."""
        assert self.internal is not None
        return self.internal.drain.started

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task of this process."""
        context = copy_context()
        context.run(OWNER.set, self)
        context.run(partial(self.nursery.start_soon, self._do, work, *args))

    async def _do(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:
        try:
            await work(*args)
        except* ProcessDied:
            if not self.is_dead:
                raise
        except* Exception:
            # What else failed at the same time has no effect either.
            if not self.is_dead:
                raise


@attrs.define(eq=False)
class SimulatedProcess:
    """A process that is started again whenever it ends; `life` is None while it is down."""

    name: str
    settings: Settings
    cluster: "SimulatedCluster"
    clock: VirtualClock
    life: Life | None = None
    _lives: int = 0
    _runs: int = 0  # calls of `start` that were ended by others
    _is_wanted: bool = False
    _became_ready: trio.Event = attrs.Factory(trio.Event)

    @property
    def serves_clients(self) -> bool:
        """Whether the process has a listener for clients."""
        return any("client" in listener.names for listener in self.settings.listeners)

    async def start(self) -> None:
        """Begin a life, and others after it, until `kill`, `stop` or `abandon`.

        Returns when the process is ready.
        """
        if not self._is_wanted:
            self._is_wanted = True
            self._became_ready = trio.Event()
            self.cluster.nursery.start_soon(self._live_on, self._runs)
        await self._became_ready.wait()

    async def kill(self) -> None:
        """End the present life: nothing that it does has an effect any more."""
        life = self._detach()
        self.life = None
        if life is not None:
            await self.cluster.end_life(life)

    async def stop(self) -> None:
        """Stop as SIGTERM does."""
        life = self._detach()
        if life is not None:
            life.shutdown.request()
            await life.ended.wait()
        if self.life is life:  # and not replaced meanwhile
            self.life = None

    def abandon(self) -> Life:
        """Leave the present life alone, so that another one may begin beside it."""
        life = self._detach()
        assert life is not None
        self.life = None
        return life

    def _detach(self) -> Life | None:
        self._is_wanted = False
        self._runs += 1
        return self.life

    async def _live_on(self, run: int) -> None:
        while self._runs == run:
            await self._live()
            if self._runs == run:
                await trio.sleep(RESTART_AFTER_S)

    async def _live(self) -> None:
        self._lives += 1
        async with trio.open_nursery() as nursery:
            life = Life(self.name, self._lives, nursery)
            self.cluster.lives[life.holder] = life
            self.life = life
            life.start_soon(self._run, life)
            await life.ended.wait()
            nursery.cancel_scope.cancel()
        del self.cluster.lives[life.holder]
        if self.life is life:
            self.life = None

    async def _run(self, life: Life) -> None:
        cluster = self.cluster
        try:
            with life.scope, life.shutdown.startup:
                await self._boot(life)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if not life.is_dead:
                cause, is_bug = cause_of(error)
                cluster.trace.note("ended", self.name, cause)
                if is_bug:
                    cluster.problems.append(f"{self.name} ended: {cause}")
                    raise
        finally:
            if not life.is_dead:
                cluster.slow_until = max(cluster.slow_until, trio.current_time() + RESTART_S)
            life.is_dead = True
            life.is_ready = False
            life.ended.set()

    async def _boot(self, life: Life) -> None:
        """Start the process, and run it until it is to stop; see hs.nursery.boot."""
        cluster, settings = self.cluster, self.settings
        database = SharedDatabase(cluster.store, life, cluster.chance, cluster.database_faults)
        plan = plan_of(settings)
        bridge: Any = InlineBridge()
        process = compose.compose(settings, plan, self.clock, bridge, database)
        duties = [duty for duty in process.duties if duty.name not in UNUSED_DUTIES]
        life.process = process = attrs.evolve(process, duties=duties)
        wait_s = boot.NAME_WAIT_S
        async with process.base.leases.hold_fenced(instance_lease(self.name), wait_s, wait_s):
            await run_tree(process, life.shutdown, lambda *_: self._on_ready(life))

    def _on_ready(self, life: Life) -> None:
        life.is_ready = True
        self._became_ready.set()
        self.cluster.trace.note("ready", self.name)

    async def faults(self) -> list[str]:
        """Return why the process is not ready; nothing if it is."""
        life = self.life
        if life is None or not life.is_ready or life.process is None:
            return [f"{self.name} does not run"]
        token = OWNER.set(life)  # the probes run in the context of whoever asks
        try:
            health = await life.process.health.check()
        finally:
            OWNER.reset(token)
        return [f"{self.name}: {noticed.cause.message}" for noticed in health.causes]

    async def ask(self, ask: Callable[[WebClient], Awaitable[WebResponse]]) -> WebResponse:
        """Have a task of the process answer. Raises: NoAnswer."""
        life = self.life
        if life is None or life.public is None or not life.is_ready:
            raise NoAnswer("connection refused")
        client = WebClient(life.public)
        responses: list[WebResponse] = []
        ended = trio.Event()

        async def work() -> None:
            try:
                with suppress(ProcessDied, ConnectionError):
                    responses.append(await ask(client))
            finally:
                ended.set()

        life.start_soon(work)
        await ended.wait()
        if not responses or life.is_dead:
            raise NoAnswer("the process has ended")
        return responses[0]


@attrs.define(eq=False, kw_only=True)
class SimulatedCluster:
    """All processes of a server, and what connects them."""

    chance: random.Random
    trace: Trace
    nursery: trio.Nursery
    freezer: Freezer
    bus: Bus
    http: HttpClient
    store: InlineDatabase
    wires: Wires = attrs.field(init=False)
    database_faults: DatabaseFaults = attrs.Factory(DatabaseFaults)
    processes: dict[str, SimulatedProcess] = attrs.Factory(dict)
    lives: dict[str, Life] = attrs.Factory(dict)  # those that have not ended
    problems: list[str] = attrs.Factory(list)
    sees_deaths: bool = True  # all processes are on one host
    shares: Shares = attrs.Factory(Shares)
    slow_until: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.wires = Wires(self.chance, self.trace, self.bus, self.locate)

    def was_calm(self, life: Life, since: float) -> bool:
        """Return whether a process should have answered soon: within seconds, if only with 503.

        It did not hang, and none was cut off from the database, or waited for as one that restarts.
        """
        is_hindered = self.freezer.is_frozen(life) or life.is_dead or life.hindered_until > since
        return not is_hindered and self.slow_until <= since

    async def end_life(self, life: Life) -> None:
        """Kill a process, which may hang."""
        life.is_dead = True
        self.freezer.resume(life)
        life.scope.cancel()
        with trio.fail_after(DEATH_TIMEOUT_S):
            await life.ended.wait()

    def end_faults(self) -> None:
        """End all faults of what connects the processes, and let those go on that hang."""
        self.bus.faults, self.bus.is_down = BusFaults(), False
        self.wires.faults = WireFaults()
        self.set_database_faults(DatabaseFaults())
        for life in self.lives.values():
            life.is_cut_off = False
            self.freezer.resume(life)

    def set_database_faults(self, faults: DatabaseFaults) -> None:
        """Set the faults of the database, in all processes."""
        for field in attrs.fields(DatabaseFaults):
            setattr(self.database_faults, field.name, getattr(faults, field.name))

    @property
    def serving(self) -> list[str]:
        """The names of the processes that clients can reach."""
        return [name for name, process in self.processes.items() if process.serves_clients]

    def locate(self, name: str) -> Life | None:
        """Return the life of a process that accepts connections of other processes."""
        life = self.processes[name].life
        if life is None or life.is_dead or life.internal is None:
            return None
        return None if life.internal.drain.is_draining else life

    def add(self, name: str, settings: Settings, skew_ms: int = 0) -> SimulatedProcess:
        """Add a process, which does not run yet."""
        process = SimulatedProcess(name, settings, self, VirtualClock(skew_ms=skew_ms))
        self.processes[name] = process
        return process

    def is_alive(self, holder: str) -> bool | None:
        """Return whether the holder of a lease is running, if a process of the host can tell."""
        if not self.sees_deaths:
            return None
        life = self.lives.get(holder)
        return life is not None and not life.is_dead

    @contextmanager
    def doors(self) -> Iterator[None]:
        """Replace the doors of all processes until the block ends."""
        http = HttpClients(
            public=self.http,
            direct=self.http,
            trusted=self.http,
            previews=self.http,
            downloads=NoDownloads(),
        )
        network = Network(http=http, peers=UnreachablePeers())
        build = partial(build_services, network=network)
        with (
            mock.patch.object(trio, "open_tcp_stream", self.wires.open),
            mock.patch.object(nursery_tree, "serve_listeners", _serve_listeners),
            mock.patch.object(compose, "build_services", build),
            mock.patch.object(process_base, "holder_name", _holder_name),
            mock.patch.object(hs.repl.leases, "is_alive", self.is_alive),
            mock.patch.object(keeper, "balanced", self.shares.balanced),
        ):
            yield


def _holder_name(instance: str) -> str:
    life = OWNER.get()
    assert isinstance(life, Life)
    assert life.name == instance
    return life.holder


async def _serve_listeners(
    app: Application,
    specs: Any,
    limits: object = None,
    proxies: object = None,
    sockets: object = None,
    *,
    task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve in memory until the drain begins; in place of the function of this name."""
    life = OWNER.get()
    assert isinstance(life, Life)
    if any("replication" in spec.resources for spec in specs):
        life.internal = app
    else:
        life.public = app
    task_status.started([])
    await app.drain.started.wait()
    await app.drain.wait_idle()
