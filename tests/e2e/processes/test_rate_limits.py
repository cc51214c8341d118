"""Rate limits apply to the requests that all processes receive together."""

import math
import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

PER_S = 4.0
BURST = 8
SECONDS = 8.0
# How many bursts are granted at most before the processes have informed each other.
MAX_BURSTS = 3


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of three processes that limits messages."""
    rate = {"per_second": PER_S, "burst_count": BURST}
    with running_cluster("T2", postgres_server, redis_server, rc_message=rate) as running:
        yield running


async def test_rate_limit_is_shared_by_all_processes(cluster: Cluster) -> None:
    ports = cluster.ports
    alice = Person(ports, random.Random(1))
    await alice.register("alice")
    created = await alice.request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room = f"{CLIENT}/rooms/{quote(created.json['room_id'])}"
    granted = 0
    started_at = trio.current_time()

    async def flood(port: int) -> None:
        nonlocal granted
        number = 0
        async with HttpClient(port, alice.token) as client:
            while trio.current_time() - started_at < SECONDS:
                number += 1
                target = f"{room}/send/m.room.message/{port}-{number}"
                answer = await client.put(target, {"msgtype": "m.text", "body": "x"})
                assert answer.status in (200, 429), answer.body
                granted += answer.status == 200

    async with trio.open_nursery() as nursery:
        for port in ports:
            nursery.start_soon(flood, port)
    duration = trio.current_time() - started_at

    # Separate limits would have granted three times as many messages.
    assert granted <= math.ceil(PER_S * duration) + BURST * MAX_BURSTS
    assert granted >= BURST
