"""PostgreSQL's pool stays usable after lost connections, cancellations and server restarts."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from hs.lib.aio import Bridge
from hs.storage.database import (
    CommitUnknown,
    Database,
    DatabaseRefusal,
    DatabaseTimeout,
    DatabaseUnavailable,
    Tx,
)
from hs.storage.postgres import database
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.database import open_postgres
from tests.support.servers.postgres import PostgresServer, running_postgres

pytestmark = pytest.mark.postgres

CONNECTIONS = 3
STORM_SEED = 77
# Longer than any of these tests, and shorter than the server's own limit.
LONG_SLEEP_S = 600.0
DEADLINE_S = 60.0
CREATE = "CREATE TABLE IF NOT EXISTS entries (number BIGINT NOT NULL)"


@pytest.fixture
def engine() -> str:
    return "postgres"


@pytest.fixture
async def pool(
    database: Database, bridge: Bridge, postgres_server: PostgresServer
) -> AsyncIterator[Database]:
    """A pool of three connections to the fresh database."""
    async with open_small_pool(postgres_server, "hs_test", bridge) as opened:
        await opened.write(execute, CREATE)
        yield opened


def open_small_pool(server: PostgresServer, database: str, bridge: Bridge):  # type: ignore[no-untyped-def]  # a context manager like open_postgres
    settings = {"application_name": "small", "statement_timeout": "900000"}
    arguments = server.arguments(database) | {"server_settings": settings}
    return open_postgres(PostgresConfig(arguments, 1, CONNECTIONS), bridge)


async def execute(tx: Tx, statement: str) -> int:
    return await tx.execute(statement)


async def fetchval(tx: Tx, statement: str) -> int:
    value: int = await tx.fetchval(statement)
    return value


async def sleep_in_read(tx: Tx, seconds: float) -> str:
    await tx.fetchval("SELECT pg_sleep($1)", seconds)
    return "slept"


async def count_sleeping_connections(database: Database) -> int:
    return await database.read(
        fetchval,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND pid <> pg_backend_pid()",
    )


async def wait_until(condition: Callable[[], Awaitable[bool]], limit_s: float) -> None:
    with trio.fail_after(limit_s):
        while not await condition():
            await trio.lowlevel.checkpoint()


async def check_health(pool: Database) -> None:
    """Check that all connections can be used at once and none is left in a transaction."""
    answers: list[str] = []

    async def use() -> None:
        answers.append(await pool.write(sleep_in_read, 0.01))

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(2 * CONNECTIONS):
                nursery.start_soon(use)
    assert answers == ["slept"] * 2 * CONNECTIONS
    stuck = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    assert await pool.read(fetchval, stuck) == 0


async def test_killed_connections_are_replaced(pool: Database, database: Database) -> None:
    await check_health(pool)

    await database.read(
        execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'small'",
    )

    assert await pool.read(fetchval, "SELECT 1") == 1
    await check_health(pool)


async def test_unit_is_rerun_after_losing_its_connection(
    pool: Database, database: Database
) -> None:
    attempts = []

    async def lose_connection_once(tx: Tx) -> int:
        attempts.append(1)
        await tx.execute("INSERT INTO entries VALUES (1)")
        if len(attempts) == 1:
            await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(attempts)

    assert await pool.write(lose_connection_once) == 2

    assert await pool.read(fetchval, "SELECT count(*) FROM entries") == 1
    await check_health(pool)


async def test_unit_is_not_rerun_after_connection_loss_during_commit(pool: Database) -> None:
    attempts = []

    async def lose_connection_at_commit(tx: Tx) -> None:
        attempts.append(1)
        await tx.execute(
            "CREATE OR REPLACE FUNCTION pg_temp.die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        await tx.execute(
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION pg_temp.die()"
        )
        await tx.execute("INSERT INTO entries VALUES (1)")

    with pytest.raises(CommitUnknown):
        await pool.write(lose_connection_at_commit)

    assert attempts == [1]
    await check_health(pool)


async def test_cancelled_long_read_is_stopped_in_the_database_at_once(
    pool: Database, database: Database
) -> None:
    async def is_asleep() -> bool:
        return await count_sleeping_connections(database) == 1

    async def is_stopped() -> bool:
        return await count_sleeping_connections(database) == 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.read_long, sleep_in_read, LONG_SLEEP_S)
        await wait_until(is_asleep, DEADLINE_S)
        nursery.cancel_scope.cancel()
    await wait_until(is_stopped, DEADLINE_S)

    await check_health(pool)


async def test_cancelled_short_read_finishes_within_its_grace_period(pool: Database) -> None:
    with trio.move_on_after(0.05):
        assert await pool.read(sleep_in_read, 0.2) == "slept"

    await check_health(pool)


async def test_cancelled_short_read_is_stopped_after_its_grace_period(pool: Database) -> None:
    with trio.fail_after(DEADLINE_S), trio.move_on_after(0.05) as scope:
        await pool.read(sleep_in_read, LONG_SLEEP_S)

    assert scope.cancelled_caught
    await check_health(pool)


async def test_many_cancellations_leave_all_connections_usable(
    pool: Database, database: Database
) -> None:
    rng = random.Random(STORM_SEED)

    async def none_is_asleep() -> bool:
        return await count_sleeping_connections(database) == 0

    async def read_with_timeout() -> None:
        # Some calls are cancelled just before their statement begins.
        with trio.move_on_after(rng.uniform(0, 0.3)):
            await pool.read_long(sleep_in_read, rng.choice((0.0, 0.01, LONG_SLEEP_S)))

    async with trio.open_nursery() as nursery:
        for _ in range(150):
            nursery.start_soon(read_with_timeout)

    await wait_until(none_is_asleep, DEADLINE_S)
    await check_health(pool)


async def test_statement_over_its_time_limit_raises_timeout(pool: Database) -> None:
    async def exceed_limit(tx: Tx) -> None:
        await tx.execute("SET LOCAL statement_timeout = 20")
        await tx.execute("SELECT pg_sleep(5)")

    with pytest.raises(DatabaseTimeout):
        await pool.write(exceed_limit)

    await check_health(pool)


async def test_pool_reconnects_to_a_restarted_server(bridge: Bridge) -> None:
    # A separate server, because other tests use the shared one.
    with running_postgres() as server:
        async with open_small_pool(server, "postgres", bridge) as pool:
            await check_health(pool)

            server.stop()
            with pytest.raises(DatabaseUnavailable):
                await pool.read(fetchval, "SELECT 1")
            await trio.to_thread.run_sync(server.start)

            await check_health(pool)


def test_stopped_test_server_leaves_no_files() -> None:
    with running_postgres() as server:
        directory = server.directory
        assert Path(directory).exists()

    assert not Path(directory).exists()


async def test_read_only_server_is_unavailable_and_not_a_bug(pool: Database) -> None:
    attempts = 0

    async def add_to_standby(tx: Tx) -> None:
        nonlocal attempts
        attempts += 1
        await tx.execute("SET TRANSACTION READ ONLY")
        await tx.execute("INSERT INTO entries VALUES (1)")

    with pytest.raises(DatabaseRefusal, match="read-only transaction"):
        await pool.write(add_to_standby)

    assert attempts == 1
    assert pool.load().connections == 0
    assert "read-only transaction" in (pool.load().fault or "")
    assert await pool.write(execute, "INSERT INTO entries VALUES (2)") == 1


async def test_refused_write_is_a_fault_for_a_while(
    pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "REFUSED_S", 0.0)

    with pytest.raises(DatabaseRefusal):
        await pool.write(execute, "SET TRANSACTION READ ONLY; INSERT INTO entries VALUES (1)")

    assert pool.load().fault is None


async def test_missing_privilege_is_unavailable_and_not_a_bug(pool: Database) -> None:
    async def add_without_privilege(tx: Tx) -> None:
        await tx.execute("SET LOCAL ROLE pg_monitor")
        await tx.execute("INSERT INTO entries VALUES (1)")

    with pytest.raises(DatabaseRefusal, match="permission denied"):
        await pool.write(add_without_privilege)
