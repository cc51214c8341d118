"""Fixtures for all tests: the asyncio bridge, fresh databases on both engines, a Redis."""

from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hs.lib.aio import Bridge, open_bridge
from hs.storage.database import Database
from tests.support.limits import limit
from tests.support.servers.postgres import PostgresMissing, PostgresServer, running_postgres
from tests.support.servers.redis import RedisMissing, RedisServer, running_redis
from tests.support.sql.databases import (
    fresh_inline,
    fresh_postgres,
    fresh_sqlite,
    make_postgres_template,
    make_sqlite_template,
)

# The duration of an example depends on the load of the machine.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LIMIT_S = 400.0
LONG_LIMIT_S = 3600.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Apply a time limit to each test; starting shared servers counts for the first test."""
    is_long = any(item.get_closest_marker(name) for name in ("long", "js", "growth", "synapse"))
    with limit(LONG_LIMIT_S if is_long else LIMIT_S):
        result = yield
    # A test that configures logging would drop repeated records of later tests.
    item.config.pluginmanager.getplugin("logging-plugin").caplog_handler.filters.clear()
    return result


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    """The asyncio loop in its thread; cannot be combined with autojump_clock."""
    async with open_bridge() as bridge:
        yield bridge


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL server with a migrated template."""
    try:
        with running_postgres() as server:
            make_postgres_template(server)
            yield server
    except PostgresMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis server."""
    try:
        with running_redis() as server:
            yield server
    except RedisMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """The private Redis server, emptied."""
    redis_server.cli("FLUSHALL")
    return redis_server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    make_sqlite_template(path)
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest) -> str:
    """Each database engine in turn."""
    return str(request.param)


@pytest.fixture
def database_source(engine: str, request: pytest.FixtureRequest) -> Path | PostgresServer:
    """The source of the fixture `database`; separate, as it must not be started inside trio."""
    name = "postgres_server" if engine == "postgres" else "sqlite_template"
    source: Path | PostgresServer = request.getfixturevalue(name)
    return source


@pytest.fixture
async def database(
    engine: str, database_source: Path | PostgresServer, tmp_path: Path, bridge: Bridge
) -> AsyncIterator[Database]:
    """A fresh, migrated database, once on each engine."""
    if engine == "inline":
        async with fresh_inline() as opened:
            yield opened
    elif isinstance(database_source, Path):
        async with fresh_sqlite(database_source, tmp_path / "test.db") as opened:
            yield opened
    else:
        async with fresh_postgres(database_source, bridge) as opened:
            yield opened
