"""Streams that two workers share out: each user or room needs only its own worker."""

from collections.abc import Iterator

import attrs
import pytest
import trio

from tests.e2e.processes.test_stream_writers import EFFECTS, LIMIT_S, Pair, register_pair, sync
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

WRITERS = ["sync1", "persister1"]
STREAMS = ("typing", "receipts", "presence", "to_device", "device_lists", "account_data")
PAIRS = 4


@pytest.fixture(scope="module")
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server whose two workers write these streams."""
    writers = dict.fromkeys(STREAMS, WRITERS)
    with running_cluster("T2", postgres_server, redis_server, stream_writers=writers) as running:
        yield running


async def see_all_effects(pair: Pair) -> None:
    """Make a change in each stream, and wait until the other user or device has seen it."""
    for stream in STREAMS:
        effect = EFFECTS[stream]
        watcher = pair.bob if effect.seen_by_bob else attrs.evolve(pair.alice, ports=pair.bob.ports)
        answer = await sync(watcher)
        await pair.alice.request(effect.method, effect.target(pair), effect.body(pair))
        while not effect.shows(answer, pair):
            answer = await sync(watcher, answer["next_batch"], 10_000)


async def test_changes_of_users_of_both_workers_are_seen(cluster: Cluster) -> None:
    pairs = [await register_pair(cluster, f"shared{number}") for number in range(PAIRS)]

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for pair in pairs:
                nursery.start_soon(see_all_effects, pair)


@pytest.mark.long
async def test_users_of_one_worker_can_write_while_the_other_one_is_down(cluster: Cluster) -> None:
    pairs = [await register_pair(cluster, f"half{number}") for number in range(2 * PAIRS)]
    effect, statuses = EFFECTS["account_data"], set[int]()
    worker = cluster.processes["sync1"]

    async def attempt(pair: Pair) -> None:
        async with HttpClient(pair.alice.ports[0], pair.alice.token) as client:
            answer = await client.request(
                effect.method, effect.target(pair), json=effect.body(pair)
            )
            statuses.add(answer.status)

    await trio.to_thread.run_sync(worker.kill)
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for pair in pairs:
                    nursery.start_soon(attempt, pair)
            for pair in pairs:
                await sync(attrs.evolve(pair.alice, ports=pair.bob.ports))
    finally:
        await trio.to_thread.run_sync(worker.start)

    assert statuses == {200, 503}
    for pair in pairs:
        await pair.alice.request(effect.method, effect.target(pair), effect.body(pair))
