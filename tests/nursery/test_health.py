"""The health of a process: each of many injected faults is noticed within two seconds, and ends."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.apis.web.drain import Drain
from hs.core.streams import EVENTS
from hs.lib.clock import FixedClock
from hs.lib.health import FRESH_S, LATE_S, ROUND_S, Health, HealthChecks, HealthState
from hs.nursery.health.database_probe import CLOCK_MS, DatabaseFacts
from hs.nursery.health.disk_probe import FREE_BYTES, FolderProbe
from hs.nursery.health.probes import Progress, build_health
from hs.nursery.plan import plan_of
from hs.nursery.process_base import build_process_base
from hs.repl.calls.client import CallRejected, InstanceUnreachable
from hs.repl.calls.inproc import InProcSender
from hs.repl.calls.reply import RpcCall, WriterPositions
from hs.repl.calls.server import RpcServer
from hs.repl.process_reports import FollowedWriter, ProcessReport, ProcessReports
from hs.storage.database import (
    DatabaseError,
    DatabaseHung,
    DatabaseLoad,
    DatabaseRefusal,
    DatabaseUnavailable,
)
from hs.storage.migrate import bundled_migrations
from tests.support.composition import NO_BRIDGE, SETTINGS, Neighbourhood, worker_settings

NOTICED_S = 2.0
MIGRATIONS = bundled_migrations()
UNREADY, DEGRADED = HealthState.UNREADY, HealthState.DEGRADED


@attrs.define
class FakeDatabase:
    """A database that answers one question, or fails, or hangs."""

    clock: FixedClock
    migrations: int = len(MIGRATIONS)
    last_migration: int = MIGRATIONS[-1].number
    ahead_ms: int = 0
    is_standby: bool = False
    fault: str | None = None
    error: DatabaseError | None = None
    hangs: bool = False
    reads: int = 0

    async def read(self, _unit: object) -> DatabaseFacts:
        self.reads += 1
        while self.hangs:  # noqa: ASYNC110 - as a database, it does not say when it goes on
            await trio.sleep(0.01)
        if self.error is not None:
            raise self.error
        now_ms = self.clock.now_ms() + self.ahead_ms
        return DatabaseFacts(self.migrations, self.last_migration, now_ms, self.is_standby)

    def load(self) -> DatabaseLoad:
        return DatabaseLoad(1, 1, 1, 0, units={}, fault=self.fault)


@attrs.define
class FaultySender(InProcSender):
    """Calls between processes that fail, take time, or are rejected, by process."""

    delays_s: dict[str, float] = attrs.Factory(dict)
    errors: dict[str, Exception] = attrs.Factory(dict)

    async def call(
        self, instance: str, call: RpcCall, timeout_s: float, *, is_movable: bool = False
    ) -> tuple[bytes, WriterPositions]:
        if instance in self.errors:
            raise self.errors[instance]
        delay_s = self.delays_s.get(instance, 0.0)
        await trio.sleep(min(delay_s, timeout_s))
        if delay_s >= timeout_s:
            raise InstanceUnreachable("no reply in time")
        return await super().call(instance, call, timeout_s - delay_s)


@attrs.frozen
class Reports:
    """The reports of another process."""

    async def report(self) -> ProcessReport:
        raise NotImplementedError

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.define(kw_only=True)
class Doors:
    """Everything that the worker sync1 depends on; the others are main and persister1."""

    clock: FixedClock
    database: FakeDatabase
    sender: FaultySender
    drain: Drain
    progress: Progress
    redis_fault: str | None = None
    redis_hangs: bool = False
    connected: bool = True
    followed: tuple[FollowedWriter, ...] = ()

    async def find_bus_fault(self) -> str | None:
        while self.redis_hangs:  # noqa: ASYNC110 - as Redis, it does not say when it goes on
            await trio.sleep(0.01)
        return self.redis_fault


@asynccontextmanager
async def running_checks() -> AsyncIterator[tuple[HealthChecks, Doors]]:
    """Run the checks of a worker that is ready."""
    clock, neighbours = FixedClock(), Neighbourhood(sender=FaultySender())
    sender = neighbours.sender
    assert isinstance(sender, FaultySender)
    doors = Doors(
        clock=clock,
        database=FakeDatabase(clock),
        sender=sender,
        drain=Drain(),
        progress=Progress(is_serving=True),
    )
    settings = worker_settings(SETTINGS, "sync1", "main", events=("persister1",))
    # Without disks, which threads look at: those do not know of virtual time.
    settings = attrs.evolve(
        settings,
        workers=attrs.evolve(settings.workers, serves_media=False),
        database=attrs.evolve(settings.database, path=Path(":memory:")),
    )
    database: Any = doors.database
    base = build_process_base(
        settings, plan_of(settings), clock, NO_BRIDGE, database, connect=neighbours.connect
    )
    assert base.cluster is not None
    intake: Any = attrs.make_class("Followed", [])()
    intake.followed = lambda: doors.followed
    traffic: Any = doors
    cluster = attrs.evolve(
        base.cluster, find_bus_fault=doors.find_bus_fault, intake=intake, traffic=traffic
    )
    checks = build_health(attrs.evolve(base, cluster=cluster), doors.drain, doors.progress)
    async with trio.open_nursery() as nursery:
        for name in ("main", "persister1"):
            server = RpcServer(list)
            server.register(ProcessReports, Reports())
            sender.connect(name, server)
            await nursery.start(server.run)
        await nursery.start(checks.run)
        yield checks, doors
        nursery.cancel_scope.cancel()


def codes_of(health: Health) -> set[str]:
    return {f"{noticed.cause.code}:{noticed.cause.subject}" for noticed in health.causes}


def change(target: str, **values: Any) -> Callable[[Doors], None]:
    """Return a fault that sets attributes of a door, or of all doors if `target` is empty."""

    def inject(doors: Doors) -> None:
        door = getattr(doors, target) if target else doors
        for name, value in values.items():
            setattr(door, name, value)

    return inject


def break_calls(**errors: Exception) -> Callable[[Doors], None]:
    return lambda doors: doors.sender.errors.update(errors)


def delay_calls(**delays_s: float) -> Callable[[Doors], None]:
    return lambda doors: doors.sender.delays_s.update(delays_s)


def lag(positions: int) -> Callable[[Doors], None]:
    writer = FollowedWriter(
        stream=EVENTS.name, writer="persister1", position=1, lag=positions, repairs=0
    )
    return change("", followed=(writer,))


def both(*faults: Callable[[Doors], None]) -> Callable[[Doors], None]:
    def inject(doors: Doors) -> None:
        for fault in faults:
            fault(doors)

    return inject


def heal(doors: Doors) -> None:
    """End all faults."""
    for name in ("migrations", "last_migration", "ahead_ms", "is_standby", "fault", "error"):
        setattr(doors.database, name, getattr(FakeDatabase(doors.clock), name))
    doors.database.hangs = doors.redis_hangs = False
    doors.redis_fault, doors.followed = None, ()
    doors.sender.errors.clear()
    doors.sender.delays_s.clear()
    doors.progress.is_serving = True


REFUSED = InstanceUnreachable("connection refused")
GONE = DatabaseUnavailable("connection refused")

FAULTS: dict[str, tuple[Callable[[Doors], None], HealthState, set[str]]] = {
    "database is gone": (
        change("database", error=GONE), UNREADY, {"database_unreachable:database"},
    ),
    "database rejects the password": (
        change("database", error=DatabaseError("password authentication failed")),
        UNREADY, {"database_unreachable:database"},
    ),
    "database hangs": (change("database", hangs=True), UNREADY, {"database_hung:database"}),
    "watchdog gave the database up": (
        change("database", error=DatabaseHung("PostgreSQL does not answer")),
        UNREADY, {"database_hung:database"},
    ),
    "database has too many connections": (
        change("database", error=DatabaseRefusal("too many clients already")),
        UNREADY, {"database_unreachable:database"},
    ),
    "writes are refused": (
        change("database", fault="permission denied"),
        UNREADY, {"database_refuses_writes:database"},
    ),
    "SQLite's disk is full": (
        change("database", fault="database or disk is full"),
        UNREADY, {"database_disk_full:database"},
    ),
    "PostgreSQL's disk is full": (
        change("database", fault="could not extend file: No space left on device"),
        UNREADY, {"database_disk_full:database"},
    ),
    "database is a standby": (
        change("database", is_standby=True), UNREADY, {"database_standby:database"},
    ),
    "schema is older": (
        change("database", migrations=len(MIGRATIONS) - 1, last_migration=MIGRATIONS[-2].number),
        UNREADY, {"schema_older:database"},
    ),
    "schema is newer": (
        change("database", migrations=len(MIGRATIONS) + 1, last_migration=9999),
        DEGRADED, {"schema_newer:"},
    ),
    "clock of the database is ahead": (
        change("database", ahead_ms=CLOCK_MS + 1000), DEGRADED, {"clock_differs:"},
    ),
    "clock of the database is behind": (
        change("database", ahead_ms=-CLOCK_MS - 1000), DEGRADED, {"clock_differs:"},
    ),
    "Redis is gone": (
        change("", redis_fault="it cannot be reached"), DEGRADED, {"redis_unreachable:redis"},
    ),
    "Redis lacks permissions": (
        change("", redis_fault="NOPERM ping"), DEGRADED, {"redis_unreachable:redis"},
    ),
    "Redis hangs": (change("", redis_hangs=True), DEGRADED, {"redis_unreachable:redis"}),
    "main is gone": (break_calls(main=REFUSED), DEGRADED, {"process_unreachable:main"}),
    "main hangs": (delay_calls(main=100.0), DEGRADED, {"process_hung:main"}),
    "writer is gone": (
        break_calls(persister1=REFUSED), DEGRADED, {"process_unreachable:persister1"},
    ),
    "writer hangs": (delay_calls(persister1=100.0), DEGRADED, {"process_hung:persister1"}),
    "writer is slow": (delay_calls(persister1=0.7), DEGRADED, {"process_slow:persister1"}),
    "secret of main changed": (
        break_calls(main=CallRejected()), DEGRADED, {"secret_differs:main"},
    ),
    "secret of a writer differs": (
        break_calls(persister1=CallRejected()), DEGRADED, {"secret_differs:persister1"},
    ),
    "process lags behind a writer": (
        lag(1001), DEGRADED, {"replication_lag:events/persister1"},
    ),
    "process starts": (change("progress", is_serving=False), UNREADY, {"starting:"}),
    "all at once": (
        both(
            change("database", hangs=True), change("", redis_hangs=True),
            delay_calls(main=9.0), break_calls(persister1=REFUSED), lag(9000),
        ),
        UNREADY,
        {
            "database_hung:database", "redis_unreachable:redis", "process_hung:main",
            "process_unreachable:persister1", "replication_lag:events/persister1",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_fault_is_noticed_within_two_seconds_and_so_is_its_end(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    inject, state, codes = FAULTS[name]
    async with running_checks() as (checks, doors):
        before = await checks.check()
        inject(doors)
        with trio.fail_after(NOTICED_S):
            while codes_of(broken := await checks.check()) != codes:  # noqa: ASYNC110 - as a balancer
                await trio.sleep(0.1)
        heal(doors)
        with trio.fail_after(NOTICED_S):
            while (await checks.check()) != before:  # noqa: ASYNC110 - asks as a balancer
                await trio.sleep(0.1)

    assert before == Health()
    assert broken.state is state
    assert all(noticed.cause.message for noticed in broken.causes)


async def test_worker_that_main_never_admitted_is_unready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_checks() as (checks, doors):
        doors.sender.errors["main"] = CallRejected()
        rejected = await checks.check()

    assert (rejected.state, codes_of(rejected)) == (UNREADY, {"secret_differs:main"})
    assert "worker_replication_secret" in rejected.causes[0].cause.message


async def test_draining_process_is_unready(autojump_clock: trio.testing.MockClock) -> None:
    async with running_checks() as (checks, doors):
        doors.drain.begin()
        assert codes_of(await checks.check()) == {"draining:"}


async def test_requests_share_looks_and_none_waits_for_a_hung_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_checks() as (checks, doors):
        doors.database.hangs = True

        async def ask() -> None:
            assert (await checks.check()).state is UNREADY

        began = trio.current_time()
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(ask)
            doors.clock.advance(1000)

        assert trio.current_time() - began < LATE_S + 0.1
        assert doors.database.reads == 1


async def test_cause_keeps_the_time_at_which_it_was_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_checks() as (checks, doors):
        doors.redis_fault = "it cannot be reached"
        began_ms = doors.clock.now_ms()
        await checks.check()
        doors.clock.advance(60_000)
        await trio.sleep(FRESH_S)
        doors.database.error = GONE
        (worst, first) = (await checks.check()).causes

    assert (first.cause.code, first.since_ms) == ("redis_unreachable", began_ms)
    assert (worst.cause.code, worst.since_ms) == ("database_unreachable", began_ms + 60_000)


async def test_lost_connection_to_redis_is_known_without_a_look(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_checks() as (checks, doors):
        await checks.check()
        doors.connected = False

        assert codes_of(checks.known()) == {"redis_unreachable:redis"}


async def test_change_of_state_is_logged_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="hs.lib.health")
    async with running_checks() as (checks, doors), trio.open_nursery() as nursery:
        nursery.start_soon(checks.watch)
        doors.redis_fault = "it cannot be reached"
        await trio.sleep(2 * ROUND_S)
        heal(doors)
        await trio.sleep(2 * ROUND_S)
        nursery.cancel_scope.cancel()

    degraded, ready = [record.getMessage() for record in caplog.records]
    assert degraded.startswith("this process is degraded: Redis: it cannot be reached")
    assert ready == "this process is ready again"


def full(_folder: Path) -> int:
    return FREE_BYTES - 1


def broken_disk(_folder: Path) -> int:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("probe", "code"),
    [
        pytest.param(lambda folder: FolderProbe("k", folder, full), "disk_full", id="full"),
        pytest.param(lambda folder: FolderProbe("k", folder / "x"), "folder_missing", id="missing"),
        pytest.param(
            lambda folder: FolderProbe("k", folder, broken_disk), "folder_missing", id="broken"
        ),
    ],
)
async def test_disk_fault_is_noticed(
    probe: Callable[[Path], FolderProbe], code: str, tmp_path: Path
) -> None:
    (cause,) = await probe(tmp_path).look()

    assert (cause.code, cause.subject, cause.state) == (code, "k", DEGRADED)


async def test_disk_that_hangs_is_noticed(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def hang(_folder: Path) -> int:
        goes_on.wait(60)
        return FREE_BYTES

    checks = HealthChecks([FolderProbe("k", tmp_path, hang).probe], list, lambda: 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(checks.run)
        with trio.fail_after(NOTICED_S):
            hung = await checks.check()
        goes_on.set()
        with trio.fail_after(NOTICED_S):
            while (await checks.check()).causes:  # noqa: ASYNC110 - asks as a balancer
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()

    assert codes_of(hung) == {"disk_hung:k"}
