"""Synapse's `database` section is translated to connections of each engine."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hs.lib.aio import Bridge
from hs.storage.connect import DatabaseConfig, open_database, postgres_config
from hs.storage.database import DatabaseUnavailable, ForeignDatabase, Tx
from hs.storage.postgres.tx import translate_error
from tests.support.servers.postgres import PostgresServer


async def select_one(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT 1")
    return number


def test_psycopg2_arguments_are_translated() -> None:
    args = {
        "user": "synapse", "password": "s3cret", "dbname": "matrix", "host": "db.example.org",
        "port": 5433, "cp_min": 3, "cp_max": 7, "keepalives_idle": 10,
    }  # fmt: skip

    config = postgres_config(DatabaseConfig("psycopg2", args, instance="worker1"))

    assert (config.min_connections, config.max_connections) == (3, 7)
    assert config.connect["user"] == "synapse"
    assert config.connect["database"] == "matrix"
    assert (config.connect["host"], config.connect["port"]) == ("db.example.org", 5433)
    assert config.connect["server_settings"]["application_name"] == "hs:worker1"
    assert "keepalives_idle" not in config.connect


def test_pool_that_may_be_small_opens_no_more_connections_at_once() -> None:
    config = postgres_config(DatabaseConfig("psycopg2", {"cp_max": 3}))

    assert (config.min_connections, config.max_connections) == (3, 3)


def test_tls_arguments_are_passed_in_the_uri() -> None:
    args = {"sslmode": "verify-full", "sslrootcert": "/etc/ca bundle.pem"}

    config = postgres_config(DatabaseConfig("postgres", args))

    assert config.connect["dsn"].startswith("postgresql://?")
    assert "sslmode=verify-full" in config.connect["dsn"]
    assert "sslrootcert=%2Fetc%2Fca+bundle.pem" in config.connect["dsn"]


@pytest.mark.parametrize(
    ("args", "mode"),
    [
        ({"host": "localhost"}, "allow"),
        ({"host": "127.0.0.1"}, "allow"),
        ({"host": "::1"}, "allow"),
        ({"host": "localhost", "sslmode": "require"}, None),
        ({"host": "db.example.org"}, None),
        ({"host": "localhost,db.example.org"}, None),
        ({"host": "10.0.0.1"}, None),
        ({"host": "/run/postgresql"}, None),
        ({}, None),
    ],
)
def test_tls_to_loopback_is_used_only_if_required(
    args: dict[str, str], mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)

    config = postgres_config(DatabaseConfig("postgres", args))

    assert config.connect.get("ssl") == mode


def test_sslmode_of_the_environment_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")

    config = postgres_config(DatabaseConfig("postgres", {"host": "localhost"}))

    assert "ssl" not in config.connect


def test_comma_separated_hosts_become_a_list() -> None:
    config = postgres_config(DatabaseConfig("postgres", {"host": "a, b", "port": "1,2"}))

    assert (config.connect["host"], config.connect["port"]) == (["a", "b"], [1, 2])


def test_unknown_argument_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"database\.args\.hots"):
        postgres_config(DatabaseConfig("postgres", {"hots": "db"}))


def test_unknown_engine_is_rejected() -> None:
    with pytest.raises(ValueError, match="mysql"):
        DatabaseConfig("mysql")


async def test_sqlite_is_opened_by_path(bridge: Bridge, tmp_path: Path) -> None:
    config = DatabaseConfig("sqlite", {"database": str(tmp_path / "new.db")})

    async with open_database(config, bridge) as database:
        assert await database.read(select_one) == 1


async def test_sqlite_file_in_missing_directory_is_unavailable(bridge: Bridge) -> None:
    config = DatabaseConfig("sqlite", {"database": "/nonexistent/new.db"})

    with pytest.raises(DatabaseUnavailable, match="nonexistent"):
        async with open_database(config, bridge):
            pass


@pytest.mark.postgres
async def test_postgres_is_opened_by_its_arguments(
    bridge: Bridge, postgres_server: PostgresServer
) -> None:
    config = DatabaseConfig("psycopg2", postgres_server.arguments("postgres"), instance="w9")

    async with open_database(config, bridge) as database:
        assert await database.read(_application_name) == "hs:w9"


@pytest.mark.postgres
async def test_unreachable_postgres_is_unavailable(bridge: Bridge, tmp_path: Path) -> None:
    config = DatabaseConfig("psycopg2", {"host": str(tmp_path), "user": "nobody"})

    with pytest.raises(DatabaseUnavailable):
        async with open_database(config, bridge):
            pass


async def _application_name(tx: Tx) -> str:
    name: str = await tx.fetchval("SELECT current_setting('application_name')")
    return name


async def test_unavailable_error_contains_the_system_error_text(bridge: Bridge) -> None:
    config = DatabaseConfig("postgres", {"host": "/nowhere", "user": "a", "database": "a"})

    with pytest.raises(DatabaseUnavailable, match="PostgreSQL: No such file or directory"):
        async with open_database(config, bridge):
            pass


def test_connection_timeout_is_described() -> None:
    assert (
        str(translate_error(TimeoutError(), is_closed=True)) == "PostgreSQL: connection timed out"
    )


async def _imitate_synapse(tx: Tx) -> None:
    await tx.execute("CREATE SCHEMA synapses")
    await tx.execute("CREATE TABLE synapses.applied_schema_deltas (version INTEGER, file TEXT)")


async def _drop_imitation(tx: Tx) -> None:
    await tx.execute("DROP SCHEMA synapses CASCADE")


async def test_database_file_of_synapse_is_refused_and_left_as_it_is(
    bridge: Bridge, tmp_path: Path
) -> None:
    path = tmp_path / "homeserver.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE applied_schema_deltas (version INTEGER, file TEXT)")
    before = path.read_bytes()

    with pytest.raises(ForeignDatabase, match="Synapse's database"):
        async with open_database(DatabaseConfig("sqlite", {"database": str(path)}), bridge):
            pass

    assert path.read_bytes() == before


@pytest.mark.postgres
async def test_postgres_database_of_synapse_is_refused(
    bridge: Bridge, postgres_server: PostgresServer
) -> None:
    args = postgres_server.arguments("postgres")
    async with open_database(DatabaseConfig("psycopg2", args), bridge) as database:
        await database.write(_imitate_synapse)
        try:
            options = {"options": "-c search_path=synapses"}
            with pytest.raises(ForeignDatabase, match="Synapse's database"):
                async with open_database(DatabaseConfig("psycopg2", args | options), bridge):
                    pass
        finally:
            await database.write(_drop_imitation)
