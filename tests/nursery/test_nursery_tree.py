"""What a process starts and ends, in which order, and what becomes of requests meanwhile."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from hs.apis.web.auth import NONE
from hs.apis.web.drain import Drain
from hs.apis.web.listeners import BoundListener
from hs.apis.web.render import Empty
from hs.apis.web.route import collect, route
from hs.lib.aio import Bridge
from hs.lib.clock import SystemClock
from hs.lib.tasks import Duty
from hs.nursery.compose import compose
from hs.nursery.exit_causes import cause_of
from hs.nursery.nursery_tree import Shutdown, run_tree
from hs.nursery.part import Runner
from hs.nursery.plan import BACKGROUND, plan_of
from hs.nursery.process import Process
from hs.repl.rows import ReceiptRow
from hs.repl.streams import RECEIPTS
from hs.repl.writers import StreamIds
from hs.settings.settings import Settings
from hs.storage.database import Database, Tx
from tests.nursery.conftest import Load
from tests.support.databases import fresh_postgres
from tests.support.http_client import HttpClient, Hungup
from tests.support.postgres import PostgresServer
from tests.support.web import Answer

SOON_S = 60.0
SYNC = "/_matrix/client/v3/sync"


@attrs.frozen(eq=False)
class SlowApi:
    """Requests that are there while a process leaves."""

    drain: Drain
    database: Database
    begun: trio.Event = attrs.Factory(trio.Event)
    may_end: trio.Event = attrs.Factory(trio.Event)
    ended: list[str] = attrs.Factory(list)

    @route("GET", "/slow", auth=NONE)
    async def slow(self) -> dict[str, str]:
        """Answer when told to."""
        self.begun.set()
        await self.may_end.wait()
        return {"ended": "well"}

    @route("GET", "/poll", auth=NONE, cancel_on_disconnect=True)
    async def poll(self) -> Empty:
        """Answer when the process leaves."""
        self.begun.set()
        await self.drain.started.wait()
        return Empty()

    @route("GET", "/long-read", auth=NONE, cancel_on_disconnect=True)
    async def long_read(self) -> Empty:
        """Read for much longer than any test lasts."""
        self.begun.set()
        try:
            await self.database.read_long(sleep_long)
        finally:
            self.ended.append("long read")
        return Empty()


async def sleep_long(tx: Tx) -> None:
    await tx.fetchval("SELECT pg_sleep(600)")


async def add_receipt(tx: Tx, ids: StreamIds) -> tuple[int, list[tuple[int, ReceiptRow]]]:
    return await ids.one(), []


def composed(settings: Settings, bridge: Bridge, database: Database, **more: Any) -> Process:
    """Compose a process, with something else to do than usual."""
    process = compose(settings, plan_of(settings), SystemClock(), bridge, database)
    nothing: dict[str, Any] = {
        "preparations": (), "runners": (), "duties": (), "endpoints": (),
    }  # fmt: skip
    return attrs.evolve(process, **{**nothing, **more})


@asynccontextmanager
async def living(process: Process) -> AsyncIterator[tuple[Shutdown, int]]:
    """Run a process until the block ends; gives how to end it, and its port."""
    shutdown = Shutdown()
    async with trio.open_nursery() as nursery:
        ports: list[int | None] = []
        is_ready = trio.Event()

        def ready(bound: list[BoundListener]) -> None:
            ports.extend(one.port for one in bound)
            is_ready.set()

        nursery.start_soon(run_tree, process, shutdown, ready)
        with trio.fail_after(SOON_S):
            await is_ready.wait()
        assert ports[0] is not None
        yield shutdown, ports[0]
        shutdown.request()


def logging_runner(told: list[str], name: str) -> tuple[str, Runner]:
    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        told.append(f"{name} starts")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            told.append(f"{name} ends")

    return name, run


def logging_duty(told: list[str], name: str) -> Duty:
    async def run() -> None:
        try:
            await trio.sleep_forever()
        finally:
            told.append(f"{name} ends")

    return Duty(name, run)


@pytest.fixture
def settings(load: Load, alone: str) -> Settings:
    return load(alone)


async def test_everything_starts_in_order_and_ends_in_reverse(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    told: list[str] = []

    async def prepare() -> None:
        told.append("preparation")

    process = composed(
        settings,
        bridge,
        database,
        preparations=[prepare],
        runners=[logging_runner(told, "first"), logging_runner(told, "second")],
        duties=[logging_duty(told, "duty")],
    )
    async with living(process):
        told.append("ready")

    assert told == [
        "preparation",
        "first starts",
        "second starts",
        "ready",
        "duty ends",
        "second ends",
        "first ends",
    ]


async def test_a_runner_that_ends_can_still_write(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    written: list[int] = []
    process = composed(settings, bridge, database)

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                written.append(await process.base.table(RECEIPTS).write(add_receipt))

    async with living(attrs.evolve(process, runners=[("last words", run)])):
        pass

    assert len(written) == 1


async def test_a_duty_that_fails_is_started_again(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    attempts: list[int] = []
    again = trio.Event()

    async def run() -> None:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise RuntimeError("once")
        again.set()
        await trio.sleep_forever()

    async with living(composed(settings, bridge, database, duties=[Duty("weak", run)])):
        with trio.fail_after(SOON_S):
            await again.wait()

    assert attempts == [0, 1]


async def test_a_lone_duty_has_one_holder_and_moves_to_the_next(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    holders: list[str] = []
    moved = trio.Event()

    def holding(name: str) -> Duty:
        async def run() -> None:
            holders.append(name)
            if len(holders) == 2:
                moved.set()
            await trio.sleep_forever()

        return Duty("lonely", run, plan_duty=BACKGROUND)

    quiet = attrs.evolve(settings, listeners=())
    first = composed(settings, bridge, database, duties=[holding("first")])
    second = composed(quiet, bridge, database, duties=[holding("second")])
    second_leaves, second_ready = Shutdown(), trio.Event()
    async with trio.open_nursery() as nursery:
        async with living(first):
            await _until(lambda: holders == ["first"])
            nursery.start_soon(run_tree, second, second_leaves, lambda _: second_ready.set())
            await second_ready.wait()
            assert holders == ["first"]
        with trio.fail_after(SOON_S):
            await moved.wait()
        second_leaves.request()

    assert holders == ["first", "second"]


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(SOON_S):
        while not holds():  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(0.01)


async def test_a_runner_that_fails_ends_the_process_with_its_cause(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    fail = trio.Event()
    told: list[str] = []

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await fail.wait()
        raise OSError(28, "No space left on device", "/var/lib/hs")

    process = composed(
        settings,
        bridge,
        database,
        runners=[logging_runner(told, "sound"), ("broken", run)],
        duties=[logging_duty(told, "duty")],
    )
    with pytest.raises(BaseExceptionGroup) as failed:  # noqa: PT012 - a block is what fails
        async with living(process):
            fail.set()
            await trio.sleep_forever()

    assert cause_of(failed.value) == ("No space left on device: /var/lib/hs", False)
    assert told == ["sound starts", "duty ends", "sound ends"]


async def test_leaving_before_ready_ends_the_start(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    waiting = trio.Event()

    async def wait_for_nothing() -> None:
        waiting.set()
        await trio.sleep_forever()

    process = composed(settings, bridge, database, preparations=[wait_for_nothing])
    shutdown = Shutdown()

    async def start() -> None:
        with shutdown.startup:
            await run_tree(process, shutdown, lambda _: None)

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await waiting.wait()
            shutdown.request()

    assert shutdown.startup.cancelled_caught


def slow_process(settings: Settings, bridge: Bridge, database: Database) -> tuple[Process, SlowApi]:
    process = composed(settings, bridge, database)
    api = SlowApi(process.drain, database)
    return attrs.evolve(process, endpoints=collect(api)), api


async def test_a_request_under_way_is_finished_and_new_connections_are_refused(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    process, api = slow_process(settings, bridge, database)
    answers: list[Any] = []

    async def ask(port: int) -> None:
        async with HttpClient(port) as client:
            answers.append((await client.get("/slow")).json)

    async with trio.open_nursery() as nursery:
        async with living(process) as (shutdown, port), HttpClient(port) as late:
            nursery.start_soon(ask, port)
            await api.begun.wait()
            shutdown.request()
            await _until(lambda: process.drain.is_draining)
            with trio.fail_after(SOON_S):
                while True:
                    try:
                        assert (await late.get("/health/ready")).status == 503
                    except Hungup:
                        break
            assert answers == []
            api.may_end.set()

    assert answers == [{"ended": "well"}]


async def test_a_long_poll_is_answered_early(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    process, api = slow_process(settings, bridge, database)
    statuses: list[int] = []

    async def ask(port: int) -> None:
        async with HttpClient(port) as client:
            statuses.append((await client.get("/poll")).status)

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            async with living(process) as (shutdown, port):
                nursery.start_soon(ask, port)
                await api.begun.wait()
                assert statuses == []
                shutdown.request()

    assert statuses == [200]


async def test_a_sync_that_waits_is_answered_early_with_its_own_token(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    process = compose(settings, plan_of(settings), SystemClock(), bridge, database)
    answers: list[Answer] = []

    async def wait_for_news(client: HttpClient, since: str) -> None:
        answers.append(await client.get(f"{SYNC}?timeout=60000&since={since}"))

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            async with living(process) as (shutdown, port), HttpClient(port) as client:
                account = {"username": "alice", "password": "p"}
                made = await client.post(
                    "/_matrix/client/v3/register", {**account, "auth": {"type": "m.login.dummy"}}
                )
                client.token = made.json["access_token"]
                since = (await client.get(SYNC)).json["next_batch"]
                since = (await client.get(f"{SYNC}?since={since}")).json["next_batch"]
                waiting = HttpClient(port, client.token)
                nursery.start_soon(wait_for_news, waiting, since)
                await _until(lambda: process.drain.in_flight == 1)
                shutdown.request()

    assert [answer.status for answer in answers] == [200]
    assert answers[0].json == {"next_batch": since}


@pytest.mark.postgres
async def test_a_client_that_leaves_stops_its_statement(
    settings: Settings, bridge: Bridge, postgres_server: PostgresServer
) -> None:
    async with fresh_postgres(postgres_server, bridge) as database:
        process, api = slow_process(settings, bridge, database)
        async with living(process) as (_, port):
            with trio.move_on_after(SOON_S) as patience:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(HttpClient(port).get, "/long-read")
                    await _until_reading(database, 1)
                    nursery.cancel_scope.cancel()
            assert not patience.cancelled_caught

            await _until_reading(database, 0)

            # The handler hears of it a moment after the database has let go.
            with trio.fail_after(SOON_S):
                while not api.ended:  # noqa: ASYNC110 - a list has no event to wait for
                    await trio.sleep(0.005)
            assert api.ended == ["long read"]


_READING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' \
AND state = 'active'"


async def _until_reading(database: Database, count: int) -> None:
    with trio.fail_after(SOON_S):
        while await database.read(_count_reading) != count:  # noqa: ASYNC110 - PostgreSQL
            await trio.sleep(0.02)


async def _count_reading(tx: Tx) -> int:
    count: int = await tx.fetchval(_READING)
    return count
