"""Opens the configured database; accepts the `database` section in Synapse's format."""

import importlib
import ipaddress
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import attrs
import trio

from hs.lib.aio import Bridge
from hs.storage.database import Database, DatabaseUnavailable, ForeignDatabase, Tx
from hs.storage.dialect import Engine
from hs.storage.migrate import (
    TABLE_EXISTS,
    Migration,
    bundled_migrations,
    pending_migrations,
)
from hs.storage.postgres.config import PostgresConfig
from hs.storage.sqlite.foreign import SYNAPSE_TABLE, is_synapses_file
from hs.storage.sqlite.threads import open_sqlite

_ENGINES: Final[dict[str, Engine]] = {
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "psycopg2": "postgres",
    "asyncpg": "postgres",
}

CONNECT_S: Final = 10.0
# Names in libpq and psycopg2 on the left, in asyncpg on the right.
_ASYNCPG_NAMES: Final = {
    "user": "user",
    "password": "password",
    "dbname": "database",
    "database": "database",
    "passfile": "passfile",
    "service": "service",
    "servicefile": "servicefile",
    "target_session_attrs": "target_session_attrs",
    "krbsrvname": "krbsrvname",
    "connect_timeout": "timeout",
    "statement_cache_size": "statement_cache_size",
}
# asyncpg accepts TLS files only as parameters of a connection URI.
_TLS_ARGS: Final = frozenset(
    ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation")
)
# These tune psycopg2's pool or kernel sockets and have no counterpart in asyncpg.
_IGNORED_ARGS: Final = frozenset(
    (
        "cp_reconnect", "cp_noisy", "cp_openfun", "cp_name", "cp_good_sql", "keepalives",
        "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
        "gssencmode", "client_encoding", "check_same_thread",
    )
)  # fmt: skip
_SYNAPSES: Final = (
    "this is Synapse's database, which was left as it is; name a new, empty database instead"
)


def _engine_named(name: str) -> Engine:
    if name not in _ENGINES:
        raise ValueError(f"database.name: must be sqlite3 or psycopg2, not {name!r}")
    return _ENGINES[name]


@attrs.frozen
class DatabaseConfig:
    """The settings of a database connection: engine, Synapse's `args`, and the instance name.

    Raises: ValueError, if the engine is unknown.
    """

    engine: Engine = attrs.field(converter=_engine_named)
    args: Mapping[str, Any] = attrs.field(factory=dict)
    instance: str = "main"
    statement_timeout_ms: int | None = None


@asynccontextmanager
async def open_database(config: DatabaseConfig, bridge: Bridge) -> AsyncIterator[Database]:
    """Open the database for the duration of the context; migrations are not run.

    Raises: DatabaseUnavailable, ForeignDatabase, DatabaseError, ValueError (unknown argument in
    `args`).
    """
    if config.engine == "sqlite":
        if await trio.to_thread.run_sync(is_synapses_file, Path(config.args["database"])):
            raise ForeignDatabase(_SYNAPSES)
        async with open_sqlite(config.args["database"]) as database:
            yield database
    else:
        # Not imported at the top: installations with SQLite need no asyncpg.
        opener = importlib.import_module("hs.storage.postgres.database")
        async with opener.open_postgres(postgres_config(config), bridge) as postgres:
            if await postgres.read(_has_synapses_table):
                raise ForeignDatabase(_SYNAPSES)
            yield postgres


async def _has_synapses_table(tx: Tx) -> bool:
    return bool(await tx.fetchval(TABLE_EXISTS, SYNAPSE_TABLE))


async def check_pending(config: DatabaseConfig, bridge: Bridge) -> list[Migration]:
    """Connect to the database and return its pending migrations; nothing is created or migrated.

    Raises: ForeignDatabase, if the database belongs to Synapse or to a newer version; those of
    `open_database`.
    """
    if config.engine == "sqlite" and not (path := Path(config.args["database"])).exists():
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise DatabaseUnavailable(f"cannot create {path}: its folder cannot be written to")
        return bundled_migrations()
    async with open_database(config, bridge) as database:
        return await pending_migrations(database, bundled_migrations())


def postgres_config(config: DatabaseConfig) -> PostgresConfig:
    """Translate psycopg2's connection arguments to asyncpg's.

    Raises: ValueError, naming the argument that is wrong.
    """
    args = {name: value for name, value in config.args.items() if value is not None}
    connect: dict[str, Any] = {
        "timeout": CONNECT_S,
        "statement_cache_size": 1000,
        "max_cached_statement_lifetime": 0,
    }
    settings = {
        "application_name": str(args.pop("application_name", f"hs:{config.instance}")),
        # JIT compilation costs more than it saves for queries as short as these.
        "jit": "off",
    }
    if config.statement_timeout_ms is not None:
        settings["statement_timeout"] = str(config.statement_timeout_ms)
    if options := args.pop("options", None):
        settings["options"] = str(options)
    max_connections = int(args.pop("cp_max", 10))
    min_connections = int(args.pop("cp_min", min(5, max_connections)))
    if not max_connections >= 1 or min_connections > max_connections:
        raise ValueError(
            f"database.args: cp_min ({min_connections}) must not exceed cp_max"
            f" ({max_connections}), and cp_max must be at least 1"
        )
    for name in ("host", "port"):
        if name in args:
            connect[name] = _split_list(name, args.pop(name))
    tls = {name: args.pop(name) for name in _TLS_ARGS & args.keys()}
    if tls:
        connect["dsn"] = f"postgresql://?{urlencode(tls)}"
    elif "PGSSLMODE" not in os.environ and _is_loopback(connect.get("host", "")):
        # Loopback traffic cannot be intercepted, and TLS would nearly double the cost of a query.
        connect["ssl"] = "allow"
    for name, value in args.items():
        if name in _ASYNCPG_NAMES:
            connect[_ASYNCPG_NAMES[name]] = value
        elif name not in _IGNORED_ARGS:
            raise ValueError(f"database.args.{name}: unknown connection argument")
    if connect["statement_cache_size"] == 0:
        # An administrator sets this for PgBouncer, which rejects settings it does not know.
        del settings["jit"]
    return PostgresConfig(connect | {"server_settings": settings}, min_connections, max_connections)


def _is_loopback(host: object) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _split_list(name: str, value: Any) -> Any:
    """Split libpq's `host1,host2` into a list; return a single value as it is."""
    parts = [part.strip() for part in str(value).split(",")]
    values: list[Any] = [int(part) for part in parts] if name == "port" else list(parts)
    return values if len(values) > 1 else values[0]
