"""From settings to a running process and back: the nest of nurseries, whose nesting is the order.

Outermost first: signals, asyncio bridge, database, the process's name, replication, writers,
services, duties, public listeners, ready. Leaving the nest is the drain, in reverse.
"""

import gc
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from hs.apis.health import HealthApi, MetricsApi
from hs.apis.replication import ReplicationApi
from hs.apis.web.app import Application
from hs.apis.web.auth import Authenticator
from hs.apis.web.drain import Drain
from hs.apis.web.listening import Bound, ListenerSpec
from hs.apis.web.route import Endpoint, collect
from hs.apis.web.server import serve_listeners
from hs.lib.aio import Bridge, open_bridge
from hs.lib.clock import SystemClock
from hs.lib.tasks import Duty, keep_running
from hs.nursery import systemd
from hs.nursery.compose import compose
from hs.nursery.faults import cause_of
from hs.nursery.logs import reopen_logs, set_up_logs
from hs.nursery.plan import Plan, plan_of
from hs.nursery.process import Process, ProcessReadiness, Runner
from hs.nursery.signals import watch_signals
from hs.repl.leases import instance_lease
from hs.settings.listeners import Listener
from hs.settings.settings import Settings
from hs.storage.connect import DatabaseConfig, open_database
from hs.storage.database import Database
from hs.storage.migrate import bundled_migrations, migrate, pending

EXIT_FAILED = 1
NAME_WAIT_S = 40.0  # longer than a lease lives
SCHEMA_WAIT_S = 300.0
SCHEMA_LOOK_S = 1.0
_INTERNAL = frozenset(("replication", "metrics", "health"))

log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """Run the process of these settings until it is told to end; give its exit status."""
    set_up_logs(settings.logging)
    plan = plan_of(settings)
    try:
        trio.run(run_process, settings, plan, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        return _tell_failure(plan, group)
    except Exception as error:  # noqa: BLE001 - the last resort, told in one line
        return _tell_failure(plan, error)
    return 0


def _tell_failure(plan: Plan, error: BaseException) -> int:
    log.debug("the process ends", exc_info=error)
    cause, is_ours = cause_of(error)
    if is_ours:
        log.critical("this is a fault of the server itself", exc_info=error)
    _tell(f"hs: {plan.instance}: {cause}")
    return EXIT_FAILED


def _tell(line: str) -> None:
    """Say something to the person or script that started this, whatever the logs are set to."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


async def run_process(settings: Settings, plan: Plan) -> None:
    """Open the nest, wait in it until a signal says to leave, and leave it."""
    stop = trio.Event()
    async with trio.open_nursery() as signals:
        await signals.start(watch_signals, stop.set, lambda: reopen_logs(settings.logging))
        async with open_bridge() as bridge, _open_database(settings, bridge) as database:
            await _schema_ready(database, plan)
            process = compose(settings, plan, SystemClock(), bridge, database)
            async with process.ground.leases.hold(
                instance_lease(plan.instance), wait_s=_name_wait_s(settings)
            ):
                await _live(process, stop)
        signals.cancel_scope.cancel()


def _name_wait_s(settings: Settings) -> float:
    # A second process on one file of SQLite is a mistake; elsewhere the last holder may have been
    # lost with its host a moment ago.
    return 0.0 if settings.database.is_sqlite else NAME_WAIT_S


@asynccontextmanager
async def _open_database(settings: Settings, bridge: Bridge) -> AsyncIterator[Database]:
    chosen = settings.database
    args = {"database": str(chosen.path)} if chosen.is_sqlite else chosen.args
    config = DatabaseConfig(chosen.engine, args, instance=settings.workers.name)
    async with open_database(config, bridge) as database:
        yield database


async def _schema_ready(database: Database, plan: Plan) -> None:
    """Migrate, or wait until the main process has."""
    if plan.migrates:
        for migration in await migrate(database, bundled_migrations(), ("pre", "post")):
            log.info("schema: applied %04d %s", migration.number, migration.name)
        return
    told = False
    with trio.fail_after(SCHEMA_WAIT_S):
        while await pending(database, bundled_migrations()):
            if not told:
                log.warning("waiting for the main process to bring the schema up to date")
                told = True
            await trio.sleep(SCHEMA_LOOK_S)


async def _live(process: Process, stop: trio.Event) -> None:
    ground = process.ground
    internal_drain = Drain()
    internal = _internal_app(process, internal_drain)
    inside = [one for one in ground.plan.listeners if one.names <= _INTERNAL]
    async with trio.open_nursery() as replication:
        if ground.remote is not None:
            await replication.start(ground.remote.server.run)
        await _listen(replication, internal, inside, ground.settings)
        await replication.start(ground.transport.run)
        for prepare in process.preparations:
            await prepare()
        async with trio.open_nursery() as writers:
            for writer in ground.table_writers.values():
                await writers.start(writer.run)
            for memory in ground.memory_writers.values():
                memory.attach()
            await _serve(process, stop, process.runners)
            writers.cancel_scope.cancel()
        internal_drain.begin()
        await internal_drain.wait_idle()
        replication.cancel_scope.cancel()
    if ground.remote is not None:
        await ground.remote.sender.aclose()


async def _serve(process: Process, stop: trio.Event, runners: Sequence[tuple[str, Runner]]) -> None:
    """Start the runners, one nest inside the other, and in the innermost the listeners."""
    if runners:
        (_, first), *rest = runners
        async with trio.open_nursery() as nest:
            await nest.start(first)
            await _serve(process, stop, rest)
            nest.cancel_scope.cancel()
        return
    async with trio.open_nursery() as duties:
        for duty in process.duties:
            duties.start_soon(keep_running, duty)
        for duty in process.lone_duties:
            duties.start_soon(keep_running, _leased(process, duty))
        await _serve_public(process, stop)
        duties.cancel_scope.cancel()


async def _serve_public(process: Process, stop: trio.Event) -> None:
    plan = process.ground.plan
    public = [one for one in plan.listeners if not one.names <= _INTERNAL]
    app = _public_app(process)
    async with trio.open_nursery() as listening:
        bound = await _listen(listening, app, public, process.ground.settings)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        _tell_ready(plan, bound)
        await stop.wait()
        log.info("draining: no new requests, running ones have their time to end")
        systemd.notify(systemd.STOPPING)
        process.drain.begin()


def _tell_ready(plan: Plan, bound: list[Bound]) -> None:
    places = ", ".join(one.address for one in bound) or "no public listener"
    _tell(f"hs: {plan.instance} ready: {places}")
    systemd.notify(systemd.READY)


async def _listen(
    nursery: trio.Nursery, app: Application, listeners: list[Listener], settings: Settings
) -> list[Bound]:
    if not listeners:
        return []
    specs = [spec for one in listeners for spec in _specs(one, settings)]
    bound: list[Bound] = await nursery.start(serve_listeners, app, specs)
    return bound


def _specs(listener: Listener, settings: Settings) -> list[ListenerSpec]:
    certificate, key = settings.tls.tls_certificate_path, settings.tls.tls_private_key_path
    template = ListenerSpec(
        resources=listener.names,
        port=listener.port or 0,
        path=str(listener.path) if listener.path else None,
        mode=listener.mode,
        certificate_path=str(certificate) if listener.tls and certificate else None,
        private_key_path=str(key) if listener.tls and key else None,
        x_forwarded=listener.x_forwarded,
    )
    hosts = listener.bind_addresses if listener.path is None else ("",)
    return [attrs.evolve(template, host=host) for host in hosts]


def _public_app(process: Process) -> Application:
    return Application(
        [*process.endpoints, *_own_endpoints(process)],
        process.authenticator,
        rates=process.rates,
        admission=process.admission,
        drain=process.drain,
        metrics=process.metrics,
    )


def _internal_app(process: Process, drain: Drain) -> Application:
    nobody: Authenticator = process.authenticator
    return Application(_own_endpoints(process), nobody, drain=drain)


def _own_endpoints(process: Process) -> list[Endpoint]:
    """Give what every process answers about itself, and to its siblings."""
    ground = process.ground
    apis: list[object] = [
        HealthApi(ProcessReadiness(ground, process.drain)),
        MetricsApi(process.metrics),
    ]
    if ground.remote is not None:
        apis.append(ReplicationApi(ground.remote.endpoint))
    return collect(*apis)


def _leased(process: Process, duty: Duty) -> Duty:
    """Make a duty wait until no other process has it."""

    async def run() -> None:
        async with process.ground.leases.hold(f"duty:{duty.name}", wait_s=float("inf")):
            await duty.run()

    return Duty(duty.name, run)
