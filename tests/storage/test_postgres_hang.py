"""PostgreSQL that hangs: all units end within a bound, and work goes on when it answers again."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hs.core.streams import ACCOUNT_DATA, AccountDataRow
from hs.lib.aio import Bridge
from hs.lib.clock import FixedClock
from hs.repl import writers
from hs.repl.feed import Feed
from hs.repl.inproc import local_transport
from hs.repl.writers import StreamIds, TableWriter
from hs.storage.database import (
    CommitUnknown,
    Database,
    DatabaseHung,
    DatabaseUnavailable,
    Tx,
)
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.database import open_postgres
from tests.support.servers.postgres import (
    PostgresServer,
    running_postgres,
    stopped,
)
from tests.support.sql.databases import TEMPLATE, make_postgres_template

pytestmark = pytest.mark.postgres

CONNECTIONS = 3
UNITS = 40
DEADLINE_S = 60.0
COUNT_COMMITS = """
SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'
"""


@pytest.fixture
def engine() -> str:
    return "postgres"


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that no other test uses."""
    with running_postgres() as server:
        make_postgres_template(server)
        server.psql(f"CREATE DATABASE hang TEMPLATE {TEMPLATE}")
        server.psql("CREATE TABLE entries (number BIGINT NOT NULL)", database="hang")
        yield server


@asynccontextmanager
async def open_watched(
    server: PostgresServer, bridge: Bridge, directory: Path | None = None, answer_s: float = 4.0
) -> AsyncIterator[Database]:
    arguments = server.arguments("hang")
    if directory is not None:
        arguments["host"] = str(directory)
    config = PostgresConfig(arguments, 1, CONNECTIONS, suspect_s=0.3, answer_s=answer_s)
    async with open_postgres(config, bridge) as database:
        yield database


async def wait_until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE_S):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return
            await trio.sleep(0.01)


async def read_number(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT 1")
    return number


async def add(tx: Tx, number: int) -> None:
    await tx.execute("INSERT INTO entries VALUES ($1)", number)


async def sleep_in_unit(tx: Tx, seconds: float) -> str:
    await tx.fetchval("SELECT pg_sleep($1)", seconds)
    return "slept"


async def test_units_end_within_a_bound_and_work_goes_on_afterwards(
    own_server: PostgresServer, bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []

    async def use(number: int) -> None:
        try:
            if number % 2:
                await database.read(read_number)
            else:
                await database.write(add, number)
        except DatabaseUnavailable as error:
            errors.append(error)

    async with open_watched(own_server, bridge) as database:
        with stopped(own_server), trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for number in range(UNITS):
                    nursery.start_soon(use, number)
            assert len(errors) == UNITS
            assert "does not answer" in (database.load().fault or "")
            with pytest.raises(DatabaseHung):
                await database.read(read_number)

        await wait_until(lambda: database.load().fault is None)
        assert await database.read(read_number) == 1
        await database.write(add, -1)
        load = database.load()

    assert (load.connections_used, load.waiting) == (0, 0)
    assert own_server.psql("SELECT count(*) FROM entries", database="hang") == "1"
    lines = [record for record in caplog.records if record.name == "hs.storage.postgres.watchdog"]
    assert [record.levelno for record in lines] == [logging.CRITICAL, logging.WARNING]


async def test_slow_statement_of_a_server_that_answers_is_left_alone(
    own_server: PostgresServer, bridge: Bridge
) -> None:
    async with open_watched(own_server, bridge, answer_s=DEADLINE_S) as database:
        assert await database.write(sleep_in_unit, 2.0) == "slept"
        assert await database.read_long(sleep_in_unit, 1.0) == "slept"


async def test_connection_that_was_lost_without_a_sign_is_replaced(
    own_server: PostgresServer, bridge: Bridge, tmp_path: Path
) -> None:
    async with (
        _Firewall(own_server.directory, tmp_path).open() as firewall,
        open_watched(own_server, bridge, tmp_path, answer_s=DEADLINE_S) as database,
    ):
        assert await database.read(read_number) == 1
        firewall.forget_connections()

        with trio.fail_after(DEADLINE_S):
            assert await database.read(read_number) == 1


@pytest.mark.parametrize("answer_s", [DEADLINE_S, 0.1])
async def test_batch_whose_commit_hangs_is_neither_lost_nor_doubled(
    own_server: PostgresServer, bridge: Bridge, monkeypatch: pytest.MonkeyPatch, answer_s: float
) -> None:
    monkeypatch.setattr(writers, "ANSWER_S", answer_s)
    own_server.psql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.number = 1) EXECUTE FUNCTION wait()",
        database="hang",
    )
    written: list[int] = []
    errors: dict[int, Exception] = {}
    published: list[AccountDataRow] = []

    async def unit(
        tx: Tx, ids: StreamIds, number: int
    ) -> tuple[int, list[tuple[int, AccountDataRow]]]:
        stream_id = await ids.next_id()
        await add(tx, number)
        return number, [(stream_id, AccountDataRow("@alice:test", None, f"m.type{number}"))]

    async def write(number: int) -> None:
        try:
            written.append(await writer.write(unit, number))
        except DatabaseUnavailable as error:
            errors[number] = error

    async with open_watched(own_server, bridge) as database, trio.open_nursery() as nursery:
        feed = Feed()
        feed.subscribe(ACCOUNT_DATA, lambda batch: published.extend(row for _, row in batch.rows))
        transport = local_transport(feed)
        writer: TableWriter[AccountDataRow] = TableWriter(
            ACCOUNT_DATA, "main", database, transport, FixedClock().now_ms
        )
        await nursery.start(writer.run)
        nursery.start_soon(write, 1)

        async def is_committing() -> bool:
            return await trio.to_thread.run_sync(own_server.psql, COUNT_COMMITS) == "1"

        await wait_until(is_committing)
        with stopped(own_server):
            nursery.start_soon(write, 2)
            await wait_until(lambda: database.load().fault is not None)
            if answer_s < DEADLINE_S:
                await wait_until(lambda: len(errors) == 2)
        await wait_until(lambda: writer.committed > 0 and not writer._busy)
        if errors:
            assert (type(errors[1]), type(errors[2])) == (CommitUnknown, DatabaseUnavailable)
            await write(2)
        await wait_until(lambda: len(written) == 2 - len(errors) // 2)
        nursery.cancel_scope.cancel()

    numbers = own_server.psql("SELECT number FROM entries ORDER BY number", database="hang")
    assert numbers.split() == ["1", "2"]
    assert [row.type for row in published] == ["m.type1", "m.type2"]


class _Firewall:
    """A socket in front of the server's that can forget connections without closing them."""

    def __init__(self, server_directory: Path, directory: Path) -> None:
        self._server = server_directory / ".s.PGSQL.5432"
        self._own = directory / ".s.PGSQL.5432"
        self._forgotten = 0
        self._count = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["_Firewall"]:
        listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await listening.bind(str(self._own))
        listening.listen()
        listener = trio.SocketListener(listening)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            yield self
            nursery.cancel_scope.cancel()

    def forget_connections(self) -> None:
        self._forgotten = self._count

    async def _serve(self, client: trio.SocketStream) -> None:
        self._count += 1
        number = self._count
        server = await trio.open_unix_socket(str(self._server))
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, number, client, server)
            nursery.start_soon(self._pass_on, number, server, client)

    async def _pass_on(
        self, number: int, source: trio.SocketStream, target: trio.SocketStream
    ) -> None:
        try:
            async for part in source:
                if number <= self._forgotten:
                    await trio.sleep_forever()
                await target.send_all(part)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
