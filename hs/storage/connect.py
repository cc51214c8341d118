"""Opens the database that the configuration names; Synapse's `database` section is understood."""

import importlib
import ipaddress
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

import attrs

from hs.lib.aio import Bridge
from hs.storage.database import Database
from hs.storage.dialect import Engine
from hs.storage.postgres.config import PostgresConfig
from hs.storage.sqlite.threads import open_sqlite

_ENGINES: Final[dict[str, Engine]] = {
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "psycopg2": "postgres",
    "asyncpg": "postgres",
}

# libpq's names on the left, asyncpg's on the right.
_SAME: Final = {
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
# asyncpg takes the files of TLS only as parts of a connection URI.
_TLS: Final = frozenset(
    ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation")
)
# They tune psycopg2's pool or the kernel; there is nothing to do for them here.
_IGNORED: Final = frozenset(
    (
        "cp_reconnect", "cp_noisy", "cp_openfun", "cp_name", "cp_good_sql", "keepalives",
        "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
        "gssencmode", "client_encoding", "check_same_thread",
    )
)  # fmt: skip


def _engine_named(name: str) -> Engine:
    if name not in _ENGINES:
        raise ValueError(f"database.name is {name!r}: must be sqlite3 or psycopg2")
    return _ENGINES[name]


@attrs.frozen
class DatabaseConfig:
    """The section `database`: engine, Synapse's `args`, and who we are.

    Raises: ValueError, naming the argument that is not understood.
    """

    engine: Engine = attrs.field(converter=_engine_named)
    args: Mapping[str, Any] = attrs.field(factory=dict)
    instance: str = "main"
    statement_timeout_ms: int | None = None


@asynccontextmanager
async def open_database(config: DatabaseConfig, bridge: Bridge) -> AsyncIterator[Database]:
    """Open it for as long as the context lasts; migrations are not run.

    Raises: DatabaseUnavailable, DatabaseError.
    """
    if config.engine == "sqlite":
        async with open_sqlite(config.args["database"]) as database:
            yield database
    else:
        # Not imported above: only this engine needs asyncpg.
        opener = importlib.import_module("hs.storage.postgres.database")
        async with opener.open_postgres(postgres_config(config), bridge) as postgres:
            yield postgres


def postgres_config(config: DatabaseConfig) -> PostgresConfig:
    """Translate libpq's arguments, as psycopg2 takes them, to asyncpg's."""
    args = {name: value for name, value in config.args.items() if value is not None}
    connect: dict[str, Any] = {"statement_cache_size": 1000, "max_cached_statement_lifetime": 0}
    settings = {
        "application_name": str(args.pop("application_name", f"hs:{config.instance}")),
        # Compiling queries never pays for queries as short as ours.
        "jit": "off",
    }
    if config.statement_timeout_ms is not None:
        settings["statement_timeout"] = str(config.statement_timeout_ms)
    if options := args.pop("options", None):
        settings["options"] = str(options)
    least, most = int(args.pop("cp_min", 5)), int(args.pop("cp_max", 10))
    if not most >= 1 or least > most:
        raise ValueError(f"database.args: cp_min {least} and cp_max {most} contradict each other")
    for name in ("host", "port"):
        if name in args:
            connect[name] = _perhaps_several(name, args.pop(name))
    tls = {name: args.pop(name) for name in _TLS & args.keys()}
    if tls:
        connect["dsn"] = f"postgresql://?{urlencode(tls)}"
    elif "PGSSLMODE" not in os.environ and _is_this_machine(connect.get("host", "")):
        # Nobody listens there; TLS would cost each question almost as much again.
        connect["ssl"] = "allow"
    for name, value in args.items():
        if name in _SAME:
            connect[_SAME[name]] = value
        elif name not in _IGNORED:
            raise ValueError(f"database.args.{name} is not an argument that we know")
    if connect["statement_cache_size"] == 0:
        # Given for PgBouncer, which refuses settings that it does not know.
        del settings["jit"]
    return PostgresConfig(connect | {"server_settings": settings}, least, most)


def _is_this_machine(host: object) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _perhaps_several(name: str, value: Any) -> Any:
    """Split libpq's `host1,host2`."""
    parts = [part.strip() for part in str(value).split(",")]
    values: list[Any] = [int(part) for part in parts] if name == "port" else list(parts)
    return values if len(values) > 1 else values[0]
