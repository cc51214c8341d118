"""Which database: the `database` block, checked; storage translates its arguments."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs

from hs.settings.fields import nearest
from hs.settings.kinds import BOOLEAN, COUNT, OBJECT, PATH, STRING, At, Kind

_POSTGRES_NAMES = ("psycopg2", "psycopg", "asyncpg", "postgres", "postgresql")
_SQLITE_NAMES = ("sqlite3", "sqlite")
_LIBPQ = (
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
_IGNORED = (
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
_TAKEN = (
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


@attrs.frozen(kw_only=True)
class DatabaseSettings:
    """The one database of the server.

    `path` is for SQLite (":memory:" is kept as it is). `args` are libpq's arguments for
    PostgreSQL, of which only those remain that have a meaning here.
    """

    engine: Literal["sqlite", "postgres"] = "sqlite"
    path: Path = Path("homeserver.db")
    args: Mapping[str, Any] = attrs.field(default=MappingProxyType({}), repr=False)

    @property
    def is_sqlite(self) -> bool:
        return self.engine == "sqlite"

    @property
    def label(self) -> str:
        """The database as a person would name it."""
        return str(self.path) if self.is_sqlite else str(self.args["database"])

    @property
    def place(self) -> str:
        """Which database it is and where, and the key that says so."""
        if self.is_sqlite:
            return f"the database {self.label} (key database)"
        port = f":{self.args['port']}" if "port" in self.args else ""
        host = f"{self.args.get('host', 'this machine')}{port}"
        return f"the database {self.label} at {host} (key database)"


def _notice_rest(args: Mapping[str, Any], at: At) -> None:
    known = (*_TAKEN, *_LIBPQ, *_IGNORED)
    for name in args:
        if name in _IGNORED:
            at.child(name).note("not needed by this server's driver, ignored")
        elif name not in known:
            at.child(name).warn("unknown argument, ignored" + nearest(name, known))


def _check_texts(args: Mapping[str, Any], at: At) -> None:
    for name in ("user", "password", "database", "options", "application_name", *_LIBPQ):
        if args.get(name) is not None:
            STRING.read(args[name], at.child(name))


def _check_pool(args: Mapping[str, Any], at: At) -> None:
    least = COUNT.read(args.get("cp_min", 1), at.child("cp_min"))
    most = COUNT.read(args.get("cp_max", 10), at.child("cp_max"))
    if most < max(least, 1):
        at.child("cp_max").refuse(f"{most} is less than cp_min", "raise cp_max")


def _read_postgres(args: Mapping[str, Any], at: At) -> DatabaseSettings:
    _notice_rest(args, at)
    used = {name: args[name] for name in (*_TAKEN, *_LIBPQ) if args.get(name) not in (None, "")}
    if "dbname" in used:
        used.setdefault("database", used.pop("dbname"))
    if "database" not in used:
        at.child("database").refuse("the database's name is missing", "add `database: synapse`")
    _check_texts(used, at)
    _check_pool(used, at)
    return DatabaseSettings(engine="postgres", args=MappingProxyType(used))


def _read_sqlite(args: Mapping[str, Any], at: At) -> DatabaseSettings:
    for name in args:
        if name not in ("database", *_IGNORED, "cp_min", "cp_max"):
            at.child(name).warn("unknown argument, ignored" + nearest(name, ["database"]))
    named = STRING.read(args.get("database", "homeserver.db"), at.child("database"))
    path = Path(named) if named == ":memory:" else PATH.read(named, at.child("database"))
    return DatabaseSettings(engine="sqlite", path=path)


def _read_database(value: Any, at: At) -> DatabaseSettings:
    given = OBJECT.read(value, at)
    known = ("name", "args", "txn_limit", "allow_unsafe_locale")
    for name in given:
        if name not in known:
            at.child(name).warn("unknown key, ignored" + nearest(name, known), is_unknown_key=True)
    name = STRING.read(given.get("name", "sqlite3"), at.child("name"))
    args = OBJECT.read(given.get("args"), at.child("args"))
    if name in _POSTGRES_NAMES:
        settings = _read_postgres(args, at.child("args"))
    elif name in _SQLITE_NAMES:
        settings = _read_sqlite(args, at.child("args"))
    else:
        at.child("name").refuse(f"{name!r} is not a database", "write sqlite3 or psycopg2")
    COUNT.read(given.get("txn_limit", 0), at.child("txn_limit"))
    BOOLEAN.read(given.get("allow_unsafe_locale", False), at.child("allow_unsafe_locale"))
    for unread in ("txn_limit", "allow_unsafe_locale"):
        if given.get(unread):
            at.child(unread).note("not needed by this server, ignored")
    return settings


DATABASE = Kind("database", _read_database, {"type": "object"})
