"""From settings to a running process and back.

Outermost first: signals, asyncio bridge, database, schema, the process's name, and then the nest
of what the process does.
"""

import gc
import linecache
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from hs.apis.web.listeners import Bound
from hs.lib.aio import Bridge, open_bridge
from hs.lib.allocator import give_memory_back
from hs.lib.clock import SystemClock
from hs.nursery import systemd
from hs.nursery.compose import compose
from hs.nursery.exit_causes import SchemaBehind, cause_of
from hs.nursery.logs import reopen_logs, set_up_logs
from hs.nursery.nest import Leaving, live
from hs.nursery.pid_file import limit_open_files, pid_file
from hs.nursery.plan import Plan, plan_of
from hs.nursery.signals import watch_signals
from hs.repl.leases import instance_lease
from hs.settings.settings import Settings
from hs.storage.connect import DatabaseConfig, open_database
from hs.storage.database import Database, DatabaseError, DatabaseUnavailable
from hs.storage.migrate import bundled_migrations, migrate, pending

EXIT_FAILED = 1
NAME_WAIT_S = 40.0  # longer than a lease lives whose holder was lost with its host
SCHEMA_WAIT_S = 300.0
SCHEMA_LOOK_S = 1.0

log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """Run the process of these settings until it is told to end; give its exit status."""
    plan = plan_of(settings)
    give_memory_back()
    try:
        set_up_logs(settings.logging)
        limit_open_files(settings.server.soft_file_limit)
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
    leaving = Leaving()
    listening: list[Bound] = []

    def reload() -> None:
        reopen_logs(settings.logging)
        _reload_certificates(listening)

    def ready(bound: list[Bound]) -> None:
        listening.extend(bound)
        _calm_collector()
        _tell_ready(plan, bound)

    async with trio.open_nursery() as signals:
        await signals.start(watch_signals, leaving.ask, reload)
        with leaving.start:
            async with open_bridge() as bridge, _open_database(settings, bridge) as database:
                await _schema_ready(database, plan)
                process = compose(settings, plan, SystemClock(), bridge, database)
                async with process.base.leases.hold_fenced(
                    instance_lease(plan.instance), NAME_WAIT_S, _living_wait_s(settings)
                ):
                    with pid_file(settings.server.pid_file):
                        await live(process, leaving, ready)
        signals.cancel_scope.cancel()


def _calm_collector() -> None:
    # What was made until now stays: the collector need not look at it again. The text of the
    # methods that attrs writes, kept for tracebacks, takes some megabytes.
    linecache.clearcache()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _tell_ready(plan: Plan, bound: list[Bound]) -> None:
    places = ", ".join(one.address for one in bound) or "no public listener"
    _tell(f"hs: {plan.instance} ready: {places}")
    systemd.notify(systemd.READY)


def _reload_certificates(listening: list[Bound]) -> None:
    for one in listening:
        try:
            one.reload_certificate()
        except OSError as error:
            log.error("%s keeps its old certificate: %s", one.address, error)


def _living_wait_s(settings: Settings) -> float:
    # A second process on one file of SQLite is a mistake; elsewhere the last one may be leaving.
    return 0.0 if settings.database.is_sqlite else NAME_WAIT_S


@asynccontextmanager
async def _open_database(settings: Settings, bridge: Bridge) -> AsyncIterator[Database]:
    chosen = settings.database
    args = {"database": str(chosen.path)} if chosen.is_sqlite else chosen.args
    config = DatabaseConfig(chosen.engine, args, instance=settings.workers.name)
    async with AsyncExitStack() as opened:
        try:
            database = await opened.enter_async_context(open_database(config, bridge))
        except DatabaseError as error:
            told = f"{chosen.place}: {error}"
            kind = DatabaseUnavailable if isinstance(error, DatabaseUnavailable) else DatabaseError
            raise kind(told) from error
        yield database


async def _schema_ready(database: Database, plan: Plan) -> None:
    """Migrate, or wait until the main process has."""
    if plan.migrates:
        for migration in await migrate(database, bundled_migrations(), ("pre", "post")):
            log.info("schema: applied %04d %s", migration.number, migration.name)
        return
    deadline = trio.current_time() + SCHEMA_WAIT_S
    told = False
    while await pending(database, bundled_migrations()):
        if not told:
            log.warning("waiting for the main process to bring the schema up to date")
            told = True
        if trio.current_time() >= deadline:
            raise SchemaBehind(
                "the schema was not brought up to date in time; is the main process running?"
            )
        await trio.sleep(SCHEMA_LOOK_S)
