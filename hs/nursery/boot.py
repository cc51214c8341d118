"""From settings to a running process and back.

Outermost first: signals, asyncio bridge, database, schema, the lease on the instance name, and
then the nursery tree of what the process does.
"""

import errno
import gc
import linecache
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs
import trio

from hs.apis.web.listeners import BoundListener
from hs.lib.aio import Bridge, open_bridge
from hs.lib.allocator import give_memory_back
from hs.lib.clock import SystemClock
from hs.lib.log import name_process
from hs.nursery.compose import compose
from hs.nursery.exit_causes import SchemaOutdated, cause_of, exit_status_of, first_leaf
from hs.nursery.file_checks import check_files
from hs.nursery.log_setup import reopen_log_files, set_up_logging
from hs.nursery.nursery_tree import Shutdown, run_tree
from hs.nursery.pid_file import limit_open_files, pid_file
from hs.nursery.plan import Plan, plan_of
from hs.nursery.running_processes import answers
from hs.nursery.service_manager import ServiceManager
from hs.nursery.signals import watch_signals
from hs.nursery.systemd import Systemd
from hs.repl.leases import instance_lease
from hs.settings.errors import Problem, SettingsError
from hs.settings.settings import Settings
from hs.storage.connect import DatabaseConfig, open_database
from hs.storage.database import Database, DatabaseError, DatabaseUnavailable, ForeignDatabase
from hs.storage.migrate import bundled_migrations, migrate, pending_migrations

NAME_WAIT_S = 20.0  # longer than the lease of a process whose host crashed
DUPLICATE_WAIT_S = 4.0  # for a running process with this name, which may be about to end
SCHEMA_WAIT_S = 300.0
FILES_S = 10.0
SCHEMA_LOOK_S = 1.0

log = logging.getLogger(__name__)


def main(settings: Settings, manager: ServiceManager | None = None) -> int:
    """Run the process of these settings until it is stopped; return its exit status."""
    plan = plan_of(settings)
    manager = manager or Systemd()
    give_memory_back()
    try:
        name_process(plan.instance)
        set_up_logging(settings.logging)
        limit_open_files(settings.server.soft_file_limit)
        trio.run(
            run_process, settings, plan, manager, restrict_keyboard_interrupt_to_checkpoints=True
        )
    except BaseExceptionGroup as group:
        return _report_failure(settings, plan, group)
    except Exception as error:  # noqa: BLE001 - the last resort, reported in one line
        return _report_failure(settings, plan, error)
    return 0


def _report_failure(settings: Settings, plan: Plan, error: BaseException) -> int:
    log.debug("the process exits", exc_info=error)
    if isinstance(leaf := first_leaf(error), SettingsError):
        error = settings.locate(leaf)
    cause, is_bug = cause_of(error)
    if isinstance(leaf, OSError) and leaf.errno == errno.EADDRINUSE:
        cause = str(settings.locate(SettingsError([_taken_address(settings, cause)])))
    if is_bug:
        log.critical("this is a bug of the server", exc_info=error)
    _print(f"hs: {plan.instance}: {cause}")
    return exit_status_of(error)


def _taken_address(settings: Settings, cause: str) -> Problem:
    return Problem(
        key="listeners" if settings.workers.is_main else "worker_listeners",
        message=cause,
        remedy="stop the process that listens there, or choose another port; for all processes "
        "together: `hs check-config --workers`",
    )


def _print(line: str) -> None:
    """Write a line to standard error, whatever the log configuration."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


async def run_process(settings: Settings, plan: Plan, manager: ServiceManager) -> None:
    """Start the process, run it until a signal asks it to stop, and drain it."""
    shutdown = Shutdown()
    listening: list[BoundListener] = []

    def reload() -> None:
        reopen_log_files(settings.logging)
        _reload_certificates(listening)

    def stop() -> None:
        manager.announce_stop()
        shutdown.request()

    def ready(public: list[BoundListener], internal: list[BoundListener]) -> None:
        listening.extend([*public, *internal])
        _announce_ready(plan, public, manager)

    async with trio.open_nursery() as signals:
        await signals.start(watch_signals, stop, reload)
        await signals.start(manager.run, stop)
        with shutdown.startup:
            await _check_files(settings)
            async with (
                open_bridge() as bridge,
                open_settings_database(settings, bridge) as database,
            ):
                try:
                    await _schema_ready(database, plan)
                except ForeignDatabase as error:
                    raise _with_name(error, settings.database.description) from error
                process = compose(settings, plan, SystemClock(), bridge, database)
                process = attrs.evolve(process, sockets=manager.sockets)
                tune_garbage_collector()
                await manager.wait_for_turn()
                async with process.base.leases.hold_fenced(
                    instance_lease(plan.instance),
                    NAME_WAIT_S,
                    _duplicate_wait_s(settings),
                    partial(answers, settings, plan.instance),
                ):
                    with pid_file(settings.server.pid_file):
                        await run_tree(process, shutdown, ready)
        signals.cancel_scope.cancel()


async def _check_files(settings: Settings) -> None:
    """Check folders and templates. Raises: SettingsError. A disk that hangs delays only media."""
    with trio.move_on_after(FILES_S):
        await trio.to_thread.run_sync(check_files, settings, abandon_on_cancel=True)


def tune_garbage_collector() -> None:
    """Let the collector skip the objects created so far, and run less often."""
    # All objects created so far live as long as the process, so the collector may skip them. The
    # source of attrs' generated methods, cached for tracebacks, takes some megabytes.
    linecache.clearcache()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _announce_ready(plan: Plan, bound: list[BoundListener], manager: ServiceManager) -> None:
    addresses = ", ".join(listener.address for listener in bound) or "no public listener"
    _print(f"hs: {plan.instance} ready: {addresses}")
    manager.announce_ready(addresses)


def _reload_certificates(listening: list[BoundListener]) -> None:
    for listener in listening:
        try:
            listener.reload_certificate()
        except OSError as error:
            log.error(
                "could not reload the certificate of %s, keeping the old one: %s",
                listener.address,
                error,
            )


def _duplicate_wait_s(settings: Settings) -> float:
    # A second process on one SQLite file is a mistake; with PostgreSQL, the previous process of
    # this name may have been asked to stop.
    return 0.0 if settings.database.is_sqlite else DUPLICATE_WAIT_S


@asynccontextmanager
async def open_settings_database(settings: Settings, bridge: Bridge) -> AsyncIterator[Database]:
    """Open the database of these settings for the block; its errors name it.

    Raises: DatabaseUnavailable, ForeignDatabase, DatabaseError.
    """
    section = settings.database
    args = {"database": str(section.path)} if section.is_sqlite else section.args
    config = DatabaseConfig(section.engine, args, instance=settings.workers.name)
    async with AsyncExitStack() as opened:
        try:
            database = await opened.enter_async_context(open_database(config, bridge))
        except DatabaseError as error:
            raise _with_name(error, section.description) from error
        yield database


def _with_name(error: DatabaseError, description: str) -> DatabaseError:
    """Return an error of the same kind that also names the database."""
    for kind in (ForeignDatabase, DatabaseUnavailable):
        if isinstance(error, kind):
            return kind(f"{description}: {error}")
    return DatabaseError(f"{description}: {error}")


async def _schema_ready(database: Database, plan: Plan) -> None:
    """Migrate the schema, or wait until the main process has done so."""
    if plan.migrates:
        for migration in await migrate(database, bundled_migrations(), ("pre", "post")):
            log.info("schema: applied %04d %s", migration.number, migration.name)
        return
    deadline = trio.current_time() + SCHEMA_WAIT_S
    is_reported = False
    while await pending_migrations(database, bundled_migrations()):
        if not is_reported:
            log.warning("waiting for the main process to migrate the database schema")
            is_reported = True
        if trio.current_time() >= deadline:
            raise SchemaOutdated(
                "the database schema was not migrated in time; is the main process running?"
            )
        await trio.sleep(SCHEMA_LOOK_S)
