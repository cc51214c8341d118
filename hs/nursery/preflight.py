"""What `hs check-config` checks beyond the settings: everything else that stops a start.

It does what `boot` does, as far as that changes nothing: logging is set up and undone, all services
are built without a database, addresses are bound and released. A process that is running under this
configuration is not disturbed.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from hs.apis.web.listeners import address_errors
from hs.lib.aio import open_bridge
from hs.lib.clock import SystemClock
from hs.nursery.boot import open_settings_database
from hs.nursery.compose import compose
from hs.nursery.exit_causes import cause_of
from hs.nursery.file_checks import check_files
from hs.nursery.log_setup import try_logging
from hs.nursery.nursery_tree import listener_specs
from hs.nursery.plan import plan_of
from hs.repl.signing_key import signing_key_of
from hs.settings.errors import Notice, Problem, SettingsError
from hs.settings.settings import Settings
from hs.storage.connect import DatabaseConfig, postgres_config
from hs.storage.database import DatabaseError
from hs.storage.migrate import bundled_migrations, pending_migrations
from hs.storage.sqlite.foreign import is_synapses_file

ONLINE_S = 30.0


class _NotYet:
    """Stands in for what services are built with, and whose methods they keep for later."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_args: object, **_options: object) -> Any:
            raise AssertionError(f"services must not call {name} while being built")

        return refuse


def check_start(settings: Settings) -> tuple[list[Problem], list[Notice]]:
    """Return what would stop the start of this process, and what is worth a warning."""
    problems: list[Problem] = []
    notices: list[Notice] = []
    for check in (_check_signing_key, _check_logging, check_files, _check_composition):
        try:
            check(settings)
        except SettingsError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    problems += _database_problems(settings)
    if settings.server.pid_file is not None:
        problems += _folder_problems("pid_file", settings.server.pid_file)
    _check_addresses(settings, problems, notices)
    return problems, notices


def build_once(settings: Settings) -> list[Problem]:
    """Build the process and throw it away; return what would stop its start.

    Nothing runs meanwhile: no thread, no event loop.
    """
    problems: list[Problem] = []
    for check in (_check_signing_key, check_files, _check_composition):
        try:
            check(settings)
        except SettingsError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    return problems


def check_database(settings: Settings) -> list[Problem]:
    """Return what is wrong with the database, by connecting to it; its content is not changed."""
    section = settings.database
    if section.is_sqlite and not section.path.exists():
        return []  # created at the first start
    problems: list[Problem] = []
    try:
        trio.run(_reach, settings)
    except* (DatabaseError, OSError, ValueError, trio.TooSlowError) as group:
        cause, _ = cause_of(group)
        remedy = "correct the key, or start the database"
        problems.append(Problem(key="database", message=cause, remedy=remedy))
    return problems


async def _reach(settings: Settings) -> None:
    with trio.fail_after(ONLINE_S):
        async with open_bridge() as bridge, open_settings_database(settings, bridge) as database:
            await pending_migrations(database, bundled_migrations())


def _check_signing_key(settings: Settings) -> None:
    signing_key_of(settings)


def _check_logging(settings: Settings) -> None:
    try_logging(settings.logging)


def _check_composition(settings: Settings) -> None:
    bridge: Any = _NotYet()
    database: Any = _NotYet()
    compose(settings, plan_of(settings), SystemClock(), bridge, database)


def _database_problems(settings: Settings) -> list[Problem]:
    section = settings.database
    if section.is_sqlite:
        if is_synapses_file(section.path):
            message = f"{section.description} is Synapse's"
            return [Problem(key="database", message=message, remedy="name a new, empty file")]
        if str(section.path) == ":memory:":
            return []
        # SQLite also writes a file beside the database.
        log_file = section.path.with_name(f"{section.path.name}-wal")
        problems = [_folder_problems("database", path) for path in (section.path, log_file)]
        return problems[0] or problems[1]
    try:
        postgres_config(DatabaseConfig(section.engine, section.args))
    except ValueError as error:
        return [Problem(key="database.args", message=str(error), remedy="correct the argument")]
    return []


def _folder_problems(key: str, path: Path) -> list[Problem]:
    """Return the reason why a file cannot be written in its folder, if there is one."""
    if not path.parent.is_dir():
        reason = os.strerror(errno.ENOTDIR if path.parent.exists() else errno.ENOENT)
        remedy = "correct the path, or create the folder"
        return [Problem(key=key, message=f"cannot write {path}: {reason}", remedy=remedy)]
    target = path if path.exists() else path.parent
    if os.access(target, os.W_OK) and not path.is_dir():
        return []
    reason = os.strerror(errno.EISDIR if path.is_dir() else errno.EACCES)
    remedy = "correct the path or the permissions"
    return [Problem(key=key, message=f"cannot write {path}: {reason}", remedy=remedy)]


def _check_addresses(settings: Settings, problems: list[Problem], notices: list[Notice]) -> None:
    key = "listeners" if settings.workers.is_main else "worker_listeners"
    for error in address_errors(listener_specs(settings)):
        message = f"{error.strerror or error}: {error.filename}"
        if error.errno == errno.EADDRINUSE:
            # The process itself may be running.
            notices.append(Notice(key=key, message=f"{message}, perhaps by this process"))
        else:
            remedy = "use an address of this machine, and a port that this user may open"
            problems.append(Problem(key=key, message=message, remedy=remedy))
