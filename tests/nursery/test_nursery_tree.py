"""The order in which a process starts and stops its tasks, and how it drains requests."""

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
from hs.core.streams import RECEIPTS, ReceiptRow
from hs.lib.aio import Bridge
from hs.lib.clock import SystemClock
from hs.lib.tasks import Duty
from hs.nursery.compose import compose
from hs.nursery.exit_causes import cause_of
from hs.nursery.nursery_tree import Shutdown, run_tree
from hs.nursery.part import Runner
from hs.nursery.plan import BACKGROUND, plan_of
from hs.nursery.process import Process
from hs.repl.writers import StreamIds
from hs.settings.settings import Settings
from hs.storage.database import Database, Tx
from tests.nursery.conftest import Load
from tests.support.servers.http_client import ConnectionLost, HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.sql.databases import fresh_postgres
from tests.support.web import WebResponse

WAIT_S = 60.0
SYNC = "/_matrix/client/v3/sync"


@attrs.frozen(eq=False)
class SlowEndpoints:
    """Requests that are in progress while a process drains."""

    drain: Drain
    database: Database
    started: trio.Event = attrs.Factory(trio.Event)
    may_finish: trio.Event = attrs.Factory(trio.Event)
    ended: list[str] = attrs.Factory(list)

    @route("GET", "/slow", auth=NONE)
    async def slow(self) -> dict[str, str]:
        """Respond when `may_finish` is set."""
        self.started.set()
        await self.may_finish.wait()
        return {"ended": "well"}

    @route("GET", "/poll", auth=NONE, cancel_on_disconnect=True)
    async def poll(self) -> Empty:
        """Respond when the process drains."""
        self.started.set()
        await self.drain.started.wait()
        return Empty()

    @route("GET", "/long-read", auth=NONE, cancel_on_disconnect=True)
    async def long_read(self) -> Empty:
        """Run a query that takes longer than any test."""
        self.started.set()
        try:
            await self.database.read_long(sleep_long)
        finally:
            self.ended.append("long read")
        return Empty()


async def sleep_long(tx: Tx) -> None:
    await tx.fetchval("SELECT pg_sleep(600)")


async def add_receipt(tx: Tx, ids: StreamIds) -> tuple[int, list[tuple[int, ReceiptRow]]]:
    return await ids.next_id(), []


def composed_process(
    settings: Settings, bridge: Bridge, database: Database, **more: Any
) -> Process:
    """Compose a process with only the given tasks and endpoints."""
    process = compose(settings, plan_of(settings), SystemClock(), bridge, database)
    no_tasks: dict[str, Any] = {
        "preparations": (), "runners": (), "duties": (), "endpoints": (),
    }  # fmt: skip
    return attrs.evolve(process, **{**no_tasks, **more})


@asynccontextmanager
async def running_process(process: Process) -> AsyncIterator[tuple[Shutdown, int]]:
    """Run a process until the block ends; yield its shutdown and its port."""
    shutdown = Shutdown()
    async with trio.open_nursery() as nursery:
        ports: list[int | None] = []
        is_ready = trio.Event()

        def ready(bound: list[BoundListener], _: list[BoundListener]) -> None:
            ports.extend(listener.port for listener in bound)
            is_ready.set()

        nursery.start_soon(run_tree, process, shutdown, ready)
        with trio.fail_after(WAIT_S):
            await is_ready.wait()
        assert ports[0] is not None
        yield shutdown, ports[0]
        shutdown.request()


def recording_runner(log: list[str], name: str) -> tuple[str, Runner]:
    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        log.append(f"{name} starts")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"{name} ends")

    return name, run


def recording_duty(log: list[str], name: str) -> Duty:
    async def run() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"{name} ends")

    return Duty(name, run)


@pytest.fixture
def settings(load: Load, single_process: str) -> Settings:
    return load(single_process)


async def test_tasks_start_in_order_and_stop_in_reverse(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    log: list[str] = []

    async def prepare() -> None:
        log.append("preparation")

    process = composed_process(
        settings,
        bridge,
        database,
        preparations=[prepare],
        runners=[recording_runner(log, "first"), recording_runner(log, "second")],
        duties=[recording_duty(log, "duty")],
    )
    async with running_process(process):
        log.append("ready")

    assert log == [
        "preparation",
        "first starts",
        "second starts",
        "ready",
        "duty ends",
        "second ends",
        "first ends",
    ]


async def test_runner_can_write_while_it_is_cancelled(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    written: list[int] = []
    process = composed_process(settings, bridge, database)

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                written.append(await process.base.table(RECEIPTS).write(add_receipt))

    async with running_process(attrs.evolve(process, runners=[("last write", run)])):
        pass

    assert len(written) == 1


async def test_failed_duty_is_restarted(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    attempts: list[int] = []
    restarted = trio.Event()

    async def run() -> None:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise RuntimeError("once")
        restarted.set()
        await trio.sleep_forever()

    async with running_process(
        composed_process(settings, bridge, database, duties=[Duty("weak", run)])
    ):
        with trio.fail_after(WAIT_S):
            await restarted.wait()

    assert attempts == [0, 1]


async def test_leased_duty_moves_to_next_process_when_holder_stops(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    holders: list[str] = []
    moved = trio.Event()

    def recording_duty_of(name: str) -> Duty:
        async def run() -> None:
            holders.append(name)
            if len(holders) == 2:
                moved.set()
            await trio.sleep_forever()

        return Duty("leased", run, plan_duty=BACKGROUND)

    without_listeners = attrs.evolve(settings, listeners=())
    first = composed_process(settings, bridge, database, duties=[recording_duty_of("first")])
    second = composed_process(
        without_listeners, bridge, database, duties=[recording_duty_of("second")]
    )
    second_shutdown, second_ready = Shutdown(), trio.Event()
    async with trio.open_nursery() as nursery:
        async with running_process(first):
            await _wait_until(lambda: holders == ["first"])
            nursery.start_soon(run_tree, second, second_shutdown, lambda *_: second_ready.set())
            await second_ready.wait()
            assert holders == ["first"]
        with trio.fail_after(WAIT_S):
            await moved.wait()
        second_shutdown.request()

    assert holders == ["first", "second"]


async def _wait_until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.01)


async def test_failed_runner_ends_process_with_its_error(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    fail = trio.Event()
    log: list[str] = []

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await fail.wait()
        raise OSError(28, "No space left on device", "/var/lib/hs")

    process = composed_process(
        settings,
        bridge,
        database,
        runners=[recording_runner(log, "working"), ("broken", run)],
        duties=[recording_duty(log, "duty")],
    )
    with pytest.raises(BaseExceptionGroup) as failed:  # noqa: PT012 - the whole block fails
        async with running_process(process):
            fail.set()
            await trio.sleep_forever()

    assert cause_of(failed.value) == ("No space left on device: /var/lib/hs", False)
    assert log == ["working starts", "duty ends", "working ends"]


async def test_shutdown_during_startup_cancels_it(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    waiting = trio.Event()

    async def wait_for_nothing() -> None:
        waiting.set()
        await trio.sleep_forever()

    process = composed_process(settings, bridge, database, preparations=[wait_for_nothing])
    shutdown = Shutdown()

    async def start() -> None:
        with shutdown.startup:
            await run_tree(process, shutdown, lambda *_: None)

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await waiting.wait()
            shutdown.request()

    assert shutdown.startup.cancelled_caught


def process_with_slow_endpoints(
    settings: Settings, bridge: Bridge, database: Database
) -> tuple[Process, SlowEndpoints]:
    process = composed_process(settings, bridge, database)
    api = SlowEndpoints(process.drain, database)
    return attrs.evolve(process, endpoints=collect(api)), api


async def test_running_request_is_finished_and_new_connections_are_refused(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    process, api = process_with_slow_endpoints(settings, bridge, database)
    responses: list[Any] = []

    async def send_slow_request(port: int) -> None:
        async with HttpClient(port) as client:
            responses.append((await client.get("/slow")).json)

    async with trio.open_nursery() as nursery:
        async with running_process(process) as (shutdown, port), HttpClient(port) as idle_client:
            nursery.start_soon(send_slow_request, port)
            await api.started.wait()
            shutdown.request()
            await _wait_until(lambda: process.drain.is_draining)
            with trio.fail_after(WAIT_S):
                while True:
                    try:
                        assert (await idle_client.get("/health/ready")).status == 503
                    except ConnectionLost:
                        break
            assert responses == []
            api.may_finish.set()

    assert responses == [{"ended": "well"}]


async def test_long_poll_is_answered_early_on_shutdown(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    process, api = process_with_slow_endpoints(settings, bridge, database)
    statuses: list[int] = []

    async def poll(port: int) -> None:
        async with HttpClient(port) as client:
            statuses.append((await client.get("/poll")).status)

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            async with running_process(process) as (shutdown, port):
                nursery.start_soon(poll, port)
                await api.started.wait()
                assert statuses == []
                shutdown.request()

    assert statuses == [200]


async def test_waiting_sync_is_answered_early_with_its_since_token(
    settings: Settings, bridge: Bridge, database: Database
) -> None:
    process = compose(settings, plan_of(settings), SystemClock(), bridge, database)
    responses: list[WebResponse] = []

    async def long_poll(client: HttpClient, since: str) -> None:
        responses.append(await client.get(f"{SYNC}?timeout=60000&since={since}"))

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            async with running_process(process) as (shutdown, port), HttpClient(port) as client:
                account = {"username": "alice", "password": "p"}
                registered = await client.post(
                    "/_matrix/client/v3/register", {**account, "auth": {"type": "m.login.dummy"}}
                )
                client.token = registered.json["access_token"]
                since = (await client.get(SYNC)).json["next_batch"]
                since = (await client.get(f"{SYNC}?since={since}")).json["next_batch"]
                waiting_client = HttpClient(port, client.token)
                nursery.start_soon(long_poll, waiting_client, since)
                await _wait_until(lambda: process.drain.in_flight == 1)
                shutdown.request()

    assert [response.status for response in responses] == [200]
    assert responses[0].json == {"next_batch": since}


@pytest.mark.postgres
async def test_closed_connection_cancels_database_query(
    settings: Settings, bridge: Bridge, postgres_server: PostgresServer
) -> None:
    async with fresh_postgres(postgres_server, bridge) as database:
        process, api = process_with_slow_endpoints(settings, bridge, database)
        async with running_process(process) as (_, port):
            with trio.move_on_after(WAIT_S) as timeout:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(HttpClient(port).get, "/long-read")
                    await _wait_for_reading(database, 1)
                    nursery.cancel_scope.cancel()
            assert not timeout.cancelled_caught

            await _wait_for_reading(database, 0)

            # The handler is cancelled a moment after the database has ended the query.
            with trio.fail_after(WAIT_S):
                while not api.ended:  # noqa: ASYNC110 - a list has no event to wait for
                    await trio.sleep(0.005)
            assert api.ended == ["long read"]


_COUNT_READING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' \
AND state = 'active'"


async def _wait_for_reading(database: Database, count: int) -> None:
    with trio.fail_after(WAIT_S):
        while await database.read(_count_reading) != count:  # noqa: ASYNC110 - PostgreSQL
            await trio.sleep(0.02)


async def _count_reading(tx: Tx) -> int:
    count: int = await tx.fetchval(_COUNT_READING)
    return count
