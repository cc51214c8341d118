"""Writers of events that are killed, stopped, added and removed: rooms heal and never split."""

import itertools
import logging
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
import yaml

from tests.e2e.processes.test_killed import CLIENT, Ledger, read_room, sign_up
from tests.support.servers.http_client import ConnectionLost, HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    Cluster,
    ServerProcess,
    make_cluster,
    running,
)
from tests.support.servers.redis import RedisServer
from tests.support.servers.supervised import PROGRAM, environment

pytestmark = [pytest.mark.process, pytest.mark.postgres]

ROOMS = 8
HEALED_S = 16.0  # about 10 seconds until slots pass to others, and some for a slow machine
WRITERS = ["persister1", "persister2"]
THREE_WRITERS = ["persister1", "persister2", "persister3"]

log = logging.getLogger(__name__)


@attrs.define
class Load:
    """Senders in each room, by any of the processes that serve clients.

    `longest_s` is the longest time that one of them waited for the next acknowledgement.
    """

    ports: list[int]
    token: str
    ledger: Ledger = attrs.Factory(Ledger)
    acknowledged_at: dict[str, float] = attrs.Factory(dict)
    longest_s: float = 0.0

    async def send(self, room_id: str, sender: str) -> None:
        """Send messages to a room until cancelled."""
        acknowledged_at = trio.current_time()
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(HttpClient(port, self.token)) for port in self.ports
            ]
            for count in itertools.count(1):
                text = f"{sender}.{count}"
                path = f"{CLIENT}/rooms/{room_id}/send/m.room.message/{text}"
                event_id = await put_until_acknowledged(clients[count % len(clients)], path, text)
                self.ledger.record(text, event_id)
                now = trio.current_time()
                self.longest_s = max(self.longest_s, now - acknowledged_at)
                self.acknowledged_at[room_id] = acknowledged_at = now

    async def wait_all_rooms(self, within_s: float) -> float:
        """Wait until a message was acknowledged in every room; return how long that took."""
        began = trio.current_time()
        with trio.fail_after(within_s):
            while True:
                answered = [at for at in self.acknowledged_at.values() if at > began]
                if len(answered) == ROOMS:
                    return trio.current_time() - began
                await trio.sleep(0.05)


async def put_until_acknowledged(client: HttpClient, path: str, text: str) -> str:
    """Send a message until it is acknowledged; return its event ID."""
    while True:
        try:
            answer = await client.put(path, {"msgtype": "m.text", "body": text})
        except ConnectionLost:
            await trio.sleep(0.05)
            continue
        if answer.status == 200:
            return str(answer.json["event_id"])
        assert answer.status == 503, answer.body
        await trio.sleep(0.05)


@contextmanager
def running_persisters(
    postgres: PostgresServer,
    redis: RedisServer,
    orders: dict[str, list[str]] | None = None,
    writers: Sequence[str] = WRITERS,
) -> Iterator[Cluster]:
    """Run main and writers of events; `orders` are lists that a process has for itself."""
    folder = Path(tempfile.mkdtemp(prefix="hs-e2e-"))
    settings = {"stream_writers": {"events": list(writers)}}
    cluster = make_cluster("T2", folder, postgres, redis, settings, writers[1:])
    del cluster.processes["sync1"]
    for name, order in (orders or {}).items():
        path = cluster.processes[name].configs[-1]
        own = yaml.safe_load(path.read_text())
        own["stream_writers"] = {**own.get("stream_writers", {}), "events": order}
        path.write_text(yaml.safe_dump(own))
    with running(cluster):
        yield cluster


async def create_rooms(cluster: Cluster) -> tuple[HttpClient, list[str]]:
    """Create rooms that are spread over the writers."""
    client = await sign_up(cluster.processes["main"].port)
    rooms = []
    for number in range(ROOMS):
        process = cluster.processes[WRITERS[number % 2]]
        async with HttpClient(process.port, client.token) as creator:
            created = await creator.post(f"{CLIENT}/createRoom", {"preset": "public_chat"})
        assert created.status == 200, created.body
        rooms.append(str(created.json["room_id"]))
    return client, rooms


@asynccontextmanager
async def sending(cluster: Cluster, ports: list[int], senders: int = 1) -> AsyncIterator[Load]:
    """Send to rooms of both writers during the block, then compare the rooms with the ledger.

    Each room has that many senders.
    """
    client, rooms = await create_rooms(cluster)
    load = Load(ports, client.token or "")
    async with client:
        async with trio.open_nursery() as nursery:
            for number, room_id in enumerate(rooms):
                for sender in range(senders):
                    nursery.start_soon(load.send, room_id, f"{number}.{sender}")
            await load.wait_all_rooms(10)
            yield load
            nursery.cancel_scope.cancel()
        await client.aclose()  # the server may have closed the idle connection
        await check_ledger(client, rooms, load.ledger)


async def check_ledger(client: HttpClient, rooms: list[str], ledger: Ledger) -> None:
    """Check that every acknowledged message is there, and none twice."""
    written = [entry for room_id in rooms for entry in await read_room(client, room_id)]
    texts = [text for text, _ in written]
    assert len(texts) == len(set(texts)), "duplicated"
    assert ledger.acknowledged.items() <= dict(written).items(), "lost"


def send_signal(process: ServerProcess, number: signal.Signals) -> None:
    assert process.process is not None
    process.process.send_signal(number)


async def kill_a_writer(cluster: Cluster, load: Load) -> None:
    """Kill the second writer; the first one takes over its rooms."""
    await trio.to_thread.run_sync(cluster.processes[WRITERS[1]].kill)
    await trio.sleep(0.5)  # for what was under way
    log.info("healed after %.1f s (killed)", await load.wait_all_rooms(HEALED_S))


async def bring_the_writer_back(cluster: Cluster, load: Load) -> None:
    """Start the second writer again, and have the first one give it its share at once."""
    await trio.to_thread.run_sync(cluster.processes[WRITERS[1]].start)
    options = [part for path in cluster.processes["main"].configs for part in ("-c", str(path))]
    rebalanced = await trio.run_process(
        [*PROGRAM, "rebalance", *options], capture_stdout=True, env=environment()
    )
    assert f"{WRITERS[0]} gave " in rebalanced.stdout.decode()
    await load.wait_all_rooms(HEALED_S)


async def stop_a_writer(cluster: Cluster, load: Load) -> None:
    """Stop the first writer for twenty seconds; it comes back and gets slots again."""
    first = cluster.processes[WRITERS[0]]
    send_signal(first, signal.SIGSTOP)
    began = time.monotonic()
    await trio.sleep(0.5)
    try:
        log.info("healed after %.1f s (stopped)", await load.wait_all_rooms(HEALED_S))
        await trio.sleep(20.0 - (time.monotonic() - began))
    finally:
        send_signal(first, signal.SIGCONT)
    await trio.sleep(8)
    await load.wait_all_rooms(10)


Fault = Callable[[Cluster, Load], Awaitable[None]]


async def send_meanwhile(cluster: Cluster, *faults: Fault) -> None:
    """Send to all rooms through main during faults."""
    async with sending(cluster, [cluster.processes["main"].port]) as load:
        for fault in faults:
            await fault(cluster, load)


def test_rooms_of_a_killed_writer_heal_and_are_shared_out_again(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    with running_persisters(postgres_server, redis) as cluster:
        trio.run(send_meanwhile, cluster, kill_a_writer, bring_the_writer_back)

        holders = "SELECT holder, count(*) FROM stream_slots GROUP BY holder ORDER BY holder"
        shares = postgres_server.psql(holders, database=cluster.database).split()
        assert shares == ["persister1|128", "persister2|128"]


@pytest.mark.long
def test_rooms_heal_when_one_writer_is_stopped_and_then_the_other_killed(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    with running_persisters(postgres_server, redis) as cluster:
        trio.run(send_meanwhile, cluster, stop_a_writer, kill_a_writer)


async def send_through_both(cluster: Cluster) -> None:
    """Send to all rooms through processes that disagree about the order of the writers."""
    ports = [process.port for process in cluster.processes.values()]
    async with sending(cluster, ports) as load:
        for _ in range(3):
            await load.wait_all_rooms(10)


@pytest.mark.long
def test_processes_with_lists_in_different_order_never_split_a_room(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    orders = {"persister2": WRITERS[::-1]}
    with running_persisters(postgres_server, redis, orders) as cluster:
        trio.run(send_through_both, cluster)


async def restart_repeatedly(cluster: Cluster, restarts: int) -> float:
    """Restart a random writer again and again; return the longest time that a room stalled."""
    rng = random.Random(1)
    async with sending(cluster, [cluster.processes["main"].port]) as load:
        load.longest_s = 0.0
        for _ in range(restarts):
            process = cluster.processes[rng.choice(WRITERS)]
            assert await trio.to_thread.run_sync(process.stop) == 0
            await load.wait_all_rooms(HEALED_S)
            await trio.to_thread.run_sync(process.start)
            await trio.sleep(6)
    return load.longest_s


@pytest.mark.long
def test_restarts_of_writers_stall_no_room_for_long(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    with running_persisters(postgres_server, redis) as cluster:
        longest_s = trio.run(restart_repeatedly, cluster, 6)
        log.info("longest stall %.2f s", longest_s)
        assert longest_s < 5


async def send_while_writers_stop(cluster: Cluster) -> float:
    """Stop two of three writers for good, one after the other; return the longest wait."""
    async with sending(cluster, [cluster.processes["main"].port], senders=8) as load:
        load.longest_s = 0.0
        for name in THREE_WRITERS[:2]:
            assert await trio.to_thread.run_sync(cluster.processes[name].stop) == 0
            await load.wait_all_rooms(HEALED_S)
    return load.longest_s


@pytest.mark.long
def test_messages_wait_for_no_writer_that_has_stopped(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    with running_persisters(postgres_server, redis, writers=THREE_WRITERS) as cluster:
        longest_s = trio.run(send_while_writers_stop, cluster)
        log.info("longest wait %.2f s", longest_s)
        assert longest_s < 5
