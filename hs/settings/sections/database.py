"""Settings of the database; `hs.storage.connect` translates the arguments for the driver."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs

from hs.settings.fields import did_you_mean
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    OBJECT,
    PATH,
    SECRET,
    STRING,
    ConfigLocation,
    Kind,
)

_POSTGRES_NAMES = ("psycopg2", "psycopg", "asyncpg", "postgres", "postgresql")
_SQLITE_NAMES = ("sqlite3", "sqlite")
_LIBPQ_ARGS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslnegotiation",
    "passfile",
    "service",
    "servicefile",
    "target_session_attrs",
    "krbsrvname",
)
_IGNORED_ARGS = (
    "cp_reconnect",
    "cp_openfun",
    "cp_noisy",
    "cp_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "client_encoding",
    "gssencmode",
    "cp_good_sql",
    "check_same_thread",
)
_USED_ARGS = (
    "user",
    "password",
    "host",
    "port",
    "database",
    "dbname",
    "cp_min",
    "cp_max",
    "connect_timeout",
    "options",
    "application_name",
    "statement_cache_size",
)
_TEXT_ARGS = ("user", "password", "database", "dbname")
# Arguments that SQLite does not have.
_SERVER_ARGS = frozenset(("user", "password", "host", "port", "dbname"))


@attrs.frozen(kw_only=True)
class DatabaseSettings:
    """The database of the server.

    `path` is for SQLite (":memory:" is not resolved as a path). `args` are psycopg2's arguments for
    PostgreSQL, without those that have no meaning here.
    """

    engine: Literal["sqlite", "postgres"] = "sqlite"
    path: Path = Path("homeserver.db")
    args: Mapping[str, Any] = attrs.field(default=MappingProxyType({}), repr=False)

    @property
    def is_sqlite(self) -> bool:
        return self.engine == "sqlite"

    @property
    def label(self) -> str:
        """Path or database name, for people."""
        return str(self.path) if self.is_sqlite else str(self.args["database"])

    @property
    def description(self) -> str:
        """Name, location and configuration key of the database, for error messages."""
        if self.is_sqlite:
            return f"the database {self.label} (key database)"
        port = f":{self.args['port']}" if "port" in self.args else ""
        host = f"{self.args.get('host', 'this machine')}{port}"
        return f"the database {self.label} at {host} (key database)"


def _report_unused_args(args: Mapping[str, Any], at: ConfigLocation) -> None:
    known = (*_USED_ARGS, *_LIBPQ_ARGS, *_IGNORED_ARGS)
    for name in args:
        if name in _IGNORED_ARGS:
            at.child(name).note("ignored: the driver of this server does not need it")
        elif name not in known:
            at.child(name).warn("unknown argument, ignored" + did_you_mean(name, known))


def _check_strings(args: Mapping[str, Any], at: ConfigLocation) -> None:
    names = ("user", "password", "database", "options", "application_name", *_LIBPQ_ARGS)
    for name in names:
        if args.get(name) is not None:
            kind = SECRET if name.endswith("password") else STRING
            kind.read(args[name], at.child(name))
    for number, port in enumerate(str(args.get("port", 5432)).split(",")):
        if not port.strip().isdecimal():
            at.child("port").reject(f"entry {number} is not a number", "write `port: 5432`")


def _check_pool(args: Mapping[str, Any], at: ConfigLocation) -> None:
    min_connections = COUNT.read(args.get("cp_min", 1), at.child("cp_min"))
    max_connections = COUNT.read(args.get("cp_max", 10), at.child("cp_max"))
    if max_connections < max(min_connections, 1):
        at.child("cp_max").reject(
            f"{max_connections} is less than cp_min or 1", "increase cp_max, or decrease cp_min"
        )


def _read_postgres(args: Mapping[str, Any], at: ConfigLocation) -> DatabaseSettings:
    _report_unused_args(args, at)
    used = {
        name: args[name] for name in (*_USED_ARGS, *_LIBPQ_ARGS) if args.get(name) not in (None, "")
    }
    # psycopg2 takes names and passwords of digits only, which YAML reads as integers.
    used |= {name: str(used[name]) for name in _TEXT_ARGS if type(used.get(name)) is int}
    if "dbname" in used:
        used.setdefault("database", used.pop("dbname"))
    if "database" not in used:
        at.child("database").reject("name of the database is missing", "add `database: synapse`")
    _check_strings(used, at)
    _check_pool(used, at)
    return DatabaseSettings(engine="postgres", args=MappingProxyType(used))


def _read_sqlite(args: Mapping[str, Any], at: ConfigLocation) -> DatabaseSettings:
    for name in args:
        if name not in ("database", *_IGNORED_ARGS, "cp_min", "cp_max"):
            at.child(name).warn("unknown argument, ignored" + did_you_mean(name, ["database"]))
    name = STRING.read(args.get("database", "homeserver.db"), at.child("database"))
    path = Path(name) if name == ":memory:" else PATH.read(name, at.child("database"))
    return DatabaseSettings(engine="sqlite", path=path)


def _read_database(value: Any, at: ConfigLocation) -> DatabaseSettings:
    value_map = OBJECT.read(value, at)
    known = ("name", "args", "txn_limit", "allow_unsafe_locale")
    for name in value_map:
        if name not in known:
            at.child(name).warn(
                "unknown key, ignored" + did_you_mean(name, known), is_unknown_key=True
            )
    name = STRING.read(value_map.get("name", "sqlite3"), at.child("name"))
    args = OBJECT.read(value_map.get("args"), at.child("args"))
    if "name" not in value_map and args.keys() & _SERVER_ARGS:
        at.child("name").reject(
            "missing, but args describe a database server", "write `name: psycopg2`"
        )
    if name in _POSTGRES_NAMES:
        settings = _read_postgres(args, at.child("args"))
    elif name in _SQLITE_NAMES:
        settings = _read_sqlite(args, at.child("args"))
    else:
        at.child("name").reject(
            f"{name!r} is not a supported database", "write sqlite3 or psycopg2"
        )
    COUNT.read(value_map.get("txn_limit", 0), at.child("txn_limit"))
    BOOLEAN.read(value_map.get("allow_unsafe_locale", False), at.child("allow_unsafe_locale"))
    for ignored in ("txn_limit", "allow_unsafe_locale"):
        if value_map.get(ignored):
            at.child(ignored).note("ignored: this server does not need it")
    return settings


def _read_databases(value: Any, at: ConfigLocation) -> DatabaseSettings | None:
    """Read Synapse's form for several databases, of which only a single one is supported."""
    databases = OBJECT.read(value, at)
    if len(databases) > 1:
        at.reject(
            f"a server has one database here, found {', '.join(databases)}",
            "move all tables into one database, and describe it under `database`",
        )
    for name, database in databases.items():
        settings = OBJECT.read(database, at.child(name))
        single = {key: entry for key, entry in settings.items() if key != "data_stores"}
        return _read_database(single, at.child(name))
    return None


DATABASES = Kind("object", _read_databases, {"type": ["object", "null"]})
DATABASE = Kind("database", _read_database, {"type": "object"})
