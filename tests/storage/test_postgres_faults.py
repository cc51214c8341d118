"""Lost connections, cancellations and restarts leave PostgreSQL's pool as good as new."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from hs.lib.aio import Bridge
from hs.storage.database import CommitUnknown, Database, DatabaseTimeout, DatabaseUnavailable, Tx
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.database import open_postgres
from tests.support.postgres import PostgresServer, running_postgres

pytestmark = pytest.mark.postgres

CONNECTIONS = 3
STORM_SEED = 77
# Longer than any of these tests; the server's own limit is longer still.
A_LONG_TIME_S = 600.0
SOON_S = 60.0
CREATE = "CREATE TABLE IF NOT EXISTS kept (number BIGINT NOT NULL)"


@pytest.fixture
def engine() -> str:
    return "postgres"


@pytest.fixture
async def small(
    database: Database, bridge: Bridge, postgres_server: PostgresServer
) -> AsyncIterator[Database]:
    """A pool of three, on the fresh database."""
    async with open_small(postgres_server, "hs_test", bridge) as opened:
        await opened.write(execute, CREATE)
        yield opened


def open_small(server: PostgresServer, database: str, bridge: Bridge):  # type: ignore[no-untyped-def]  # a context manager like open_postgres
    settings = {"application_name": "small", "statement_timeout": "900000"}
    arguments = server.arguments(database) | {"server_settings": settings}
    return open_postgres(PostgresConfig(arguments, 1, CONNECTIONS), bridge)


async def execute(tx: Tx, statement: str) -> int:
    return await tx.execute(statement)


async def fetchval(tx: Tx, statement: str) -> int:
    value: int = await tx.fetchval(statement)
    return value


async def sleep_in_database(tx: Tx, seconds: float) -> str:
    await tx.execute("INSERT INTO kept VALUES (1)")
    await tx.fetchval("SELECT pg_sleep($1)", seconds)
    return "slept"


async def doze(tx: Tx, seconds: float) -> str:
    await tx.fetchval("SELECT pg_sleep($1)", seconds)
    return "slept"


async def busy_sleepers(database: Database) -> int:
    return await database.read(
        fetchval,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND pid <> pg_backend_pid()",
    )


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float) -> None:
    with trio.fail_after(limit_s):
        while not await condition():
            await trio.lowlevel.checkpoint()


async def check_health(small: Database) -> None:
    """All connections of the pool can be used at once, and none is left in a transaction."""
    answers: list[str] = []

    async def use() -> None:
        answers.append(await small.write(doze, 0.01))

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            for _ in range(2 * CONNECTIONS):
                nursery.start_soon(use)
    assert answers == ["slept"] * 2 * CONNECTIONS
    stuck = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    assert await small.read(fetchval, stuck) == 0


async def test_killed_connections_are_replaced(small: Database, database: Database) -> None:
    await check_health(small)

    await database.read(
        execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'small'",
    )

    assert await small.read(fetchval, "SELECT 1") == 1
    await check_health(small)


async def test_a_unit_killed_half_way_runs_again(small: Database, database: Database) -> None:
    attempts = []

    async def unlucky(tx: Tx) -> int:
        attempts.append(1)
        await tx.execute("INSERT INTO kept VALUES (1)")
        if len(attempts) == 1:
            await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(attempts)

    assert await small.write(unlucky) == 2

    assert await small.read(fetchval, "SELECT count(*) FROM kept") == 1
    await check_health(small)


async def test_a_commit_whose_fate_is_unknown_is_not_repeated(small: Database) -> None:
    attempts = []

    async def die_at_commit(tx: Tx) -> None:
        attempts.append(1)
        await tx.execute(
            "CREATE OR REPLACE FUNCTION pg_temp.die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        await tx.execute(
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON kept DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION pg_temp.die()"
        )
        await tx.execute("INSERT INTO kept VALUES (1)")

    with pytest.raises(CommitUnknown):
        await small.write(die_at_commit)

    assert attempts == [1]
    await check_health(small)


async def test_a_cancelled_long_read_leaves_the_database_at_once(
    small: Database, database: Database
) -> None:
    async def is_asleep() -> bool:
        return await busy_sleepers(database) == 1

    async def is_gone() -> bool:
        return await busy_sleepers(database) == 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(small.read_long, doze, A_LONG_TIME_S)
        await until(is_asleep, SOON_S)
        nursery.cancel_scope.cancel()
    await until(is_gone, SOON_S)

    await check_health(small)


async def test_a_cancelled_short_read_is_left_to_finish(small: Database) -> None:
    with trio.move_on_after(0.05):
        assert await small.read(doze, 0.2) == "slept"

    await check_health(small)


async def test_a_cancelled_short_read_that_turns_out_long_is_stopped(small: Database) -> None:
    with trio.fail_after(SOON_S), trio.move_on_after(0.05) as scope:
        await small.read(doze, A_LONG_TIME_S)

    assert scope.cancelled_caught
    await check_health(small)


async def test_a_storm_of_cancellations_spoils_no_connection(
    small: Database, database: Database
) -> None:
    chance = random.Random(STORM_SEED)

    async def is_calm() -> bool:
        return await busy_sleepers(database) == 0

    async def ask() -> None:
        # Some are cancelled just before their statement begins.
        with trio.move_on_after(chance.uniform(0, 0.3)):
            await small.read_long(doze, chance.choice((0.0, 0.01, A_LONG_TIME_S)))

    async with trio.open_nursery() as nursery:
        for _ in range(150):
            nursery.start_soon(ask)

    await until(is_calm, SOON_S)
    await check_health(small)


async def test_a_statement_over_its_limit_is_reported(small: Database) -> None:
    async def limited(tx: Tx) -> None:
        await tx.execute("SET LOCAL statement_timeout = 20")
        await tx.execute("SELECT pg_sleep(5)")

    with pytest.raises(DatabaseTimeout):
        await small.write(limited)

    await check_health(small)


async def test_a_restarted_server_is_used_again(bridge: Bridge) -> None:
    # A server of its own: the others' is not to be stopped.
    with running_postgres() as server:
        async with open_small(server, "postgres", bridge) as small:
            await check_health(small)

            server.stop()
            with pytest.raises(DatabaseUnavailable):
                await small.read(fetchval, "SELECT 1")
            await trio.to_thread.run_sync(server.start)

            await check_health(small)


def test_the_server_leaves_no_files() -> None:
    with running_postgres() as server:
        directory = server.directory
        assert Path(directory).exists()

    assert not Path(directory).exists()
