"""Which database, in the form that both engines' drivers can take as it is."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import attrs

from hs.settings.fields import nearest
from hs.settings.kinds import BOOLEAN, COUNT, INTEGER, OBJECT, STRING, At, Kind

_POSTGRES_NAMES = ("psycopg2", "psycopg", "asyncpg", "postgres", "postgresql")
_SQLITE_NAMES = ("sqlite3", "sqlite")
_LIBPQ_IN_DSN = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "passfile",
    "service",
    "servicefile",
    "target_session_attrs",
    "krbsrvname",
    "gsslib",
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
)


@attrs.frozen(kw_only=True)
class DatabaseSettings:
    """The one database of the server.

    `path` is for SQLite (":memory:" is kept as it is). The rest is for PostgreSQL: `dsn` carries
    the TLS options, `connect` the keyword arguments of a connection (user, password, host, port,
    database, timeout), `server_settings` what is set on every connection.
    """

    engine: str = "sqlite"
    path: Path = Path("homeserver.db")
    dsn: str | None = None
    connect: Mapping[str, Any] = attrs.field(default=MappingProxyType({}), repr=False)
    server_settings: Mapping[str, str] = MappingProxyType({})
    pool_min: int = 1
    pool_max: int = 10
    txn_limit: int = 0
    allow_unsafe_locale: bool = False

    @property
    def is_sqlite(self) -> bool:
        return self.engine == "sqlite"


def _server_settings(args: Mapping[str, Any], at: At) -> dict[str, str]:
    """Read libpq's `options: -c name=value …` and the application's name."""
    found: dict[str, str] = {}
    if "application_name" in args:
        found["application_name"] = STRING.read(args["application_name"], at)
    words = shlex.split(STRING.read(args.get("options", ""), at.child("options")))
    joined = " ".join(words).replace("-c ", "-c").split()
    for word in joined:
        name, equals, value = word.removeprefix("-c").removeprefix("--").partition("=")
        if not (word.startswith("-") and equals):
            at.child("options").refuse(f"{word!r} is not understood", "write `-c name=value`")
        found[name] = value
    return found


def _connect(args: Mapping[str, Any], at: At) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("user", "password", "host"):
        if args.get(name) not in (None, ""):
            found[name] = STRING.read(args[name], at.child(name))
    if args.get("port") is not None:
        port = args["port"]
        found["port"] = INTEGER.read(
            int(port) if isinstance(port, str) and port.isdigit() else port, at.child("port")
        )
    database = args.get("database") or args.get("dbname")
    if database is None:
        at.child("database").refuse("the database's name is missing", "add `database: synapse`")
    found["database"] = STRING.read(database, at.child("database"))
    if args.get("connect_timeout"):
        found["timeout"] = float(INTEGER.read(args["connect_timeout"], at))
    return found


def _notice_rest(args: Mapping[str, Any], at: At) -> None:
    known = (*_TAKEN, *_LIBPQ_IN_DSN, *_IGNORED)
    for name in args:
        if name in _IGNORED:
            at.child(name).note("not needed by this server's driver, ignored")
        elif name not in known:
            at.child(name).warn("unknown argument, ignored" + nearest(name, known))


def _read_postgres(args: Mapping[str, Any], at: At) -> DatabaseSettings:
    _notice_rest(args, at)
    in_dsn = {name: str(args[name]) for name in _LIBPQ_IN_DSN if args.get(name) is not None}
    pool_min = COUNT.read(args.get("cp_min", 1), at.child("cp_min"))
    pool_max = COUNT.read(args.get("cp_max", 10), at.child("cp_max"))
    if pool_max < max(pool_min, 1):
        at.child("cp_max").refuse(f"{pool_max} is less than cp_min", "raise cp_max")
    return DatabaseSettings(
        engine="postgres",
        dsn=f"postgresql://?{urlencode(in_dsn)}" if in_dsn else None,
        connect=MappingProxyType(_connect(args, at)),
        server_settings=MappingProxyType(_server_settings(args, at)),
        pool_min=pool_min,
        pool_max=pool_max,
    )


def _read_sqlite(args: Mapping[str, Any], at: At) -> DatabaseSettings:
    for name in args:
        if name not in ("database", *_IGNORED, "cp_min", "cp_max"):
            at.child(name).warn("unknown argument, ignored" + nearest(name, ["database"]))
    named = STRING.read(args.get("database", "homeserver.db"), at.child("database"))
    path = Path(named) if named == ":memory:" else at.folder / Path(named).expanduser()
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
    return attrs.evolve(
        settings,
        txn_limit=COUNT.read(given.get("txn_limit", 0), at.child("txn_limit")),
        allow_unsafe_locale=BOOLEAN.read(
            given.get("allow_unsafe_locale", False), at.child("allow_unsafe_locale")
        ),
    )


DATABASE = Kind("database", _read_database, {"type": "object"})
